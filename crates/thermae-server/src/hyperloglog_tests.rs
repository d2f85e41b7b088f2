use super::*;
use proptest::prelude::*;

/// A sketch that was filled with numbers, as text.
fn filled(numbers: std::ops::Range<u32>) -> Vec<u8> {
    let mut sketch = create();
    for number in numbers {
        add(&mut sketch, number.to_string().as_bytes()).unwrap();
    }
    sketch
}

fn union(sketches: &[&[u8]]) -> Result<Union> {
    let mut union = Union::default();
    sketches.iter().try_for_each(|sketch| union.take(sketch))?;
    Ok(union)
}

fn merge(destination: &mut Vec<u8>, sources: &[&[u8]]) -> Result<()> {
    union(sources)?.merge_into(destination)
}

fn registers(sketch: &[u8]) -> Vec<u8> {
    union(&[sketch]).unwrap().registers
}

#[test]
fn counts_are_near_and_cached_until_a_change() {
    for elements in [1, 10, 100, 1000, 10_000, 100_000] {
        let mut sketch = filled(0..elements);
        let found = count(&sketch).unwrap();
        assert!(!found.was_cached);
        let difference = (found.elements as f64 - f64::from(elements)).abs();
        assert!(difference <= f64::from(elements) * 0.025, "{found:?} of {elements}");
        store_count(&mut sketch, found.elements).unwrap();
        assert_eq!(count(&sketch).unwrap(), Count { was_cached: true, ..found });
        let before = sketch.clone();
        assert!(!add(&mut sketch, b"0").unwrap());
        assert_eq!(sketch, before);
        let news = (elements..).find(|number| add(&mut sketch, number.to_string().as_bytes()).unwrap());
        assert!(news.is_some());
        assert!(!count(&sketch).unwrap().was_cached);
        // Only the bit says so; Redis leaves the old number there.
        assert_eq!(sketch[CACHE_AT..CACHE_TOP_AT], before[CACHE_AT..CACHE_TOP_AT]);
    }
}

#[test]
fn sparse_becomes_dense_where_it_outgrows_its_limit() {
    let mut sketch = create();
    let mut expected = vec![0; REGISTERS];
    let mut longest = 0;
    for number in 0..5000_u32 {
        let was_sparse = sketch[ENCODING_AT] == SPARSE;
        add(&mut sketch, number.to_string().as_bytes()).unwrap();
        let (index, rank) = register_of(number.to_string().as_bytes());
        expected[index] = expected[index].max(rank);
        let is_sparse = sketch[ENCODING_AT] == SPARSE;
        if is_sparse {
            assert!(was_sparse);
            longest = longest.max(sketch.len());
        }
        if number % 100 == 0 || is_sparse != was_sparse {
            assert_eq!(registers(&sketch), expected, "{number}");
        }
    }
    assert!((SPARSE_BYTES_MAX - 2..=SPARSE_BYTES_MAX).contains(&longest), "{longest}");
    assert_eq!(sketch.len(), DENSE_BYTES);
}

#[test]
fn values_that_sparse_cannot_hold() {
    let mut sketch = create();
    assert!(raise(&mut sketch, 7, 32));
    assert_eq!(sketch[ENCODING_AT], SPARSE);
    assert!(raise(&mut sketch, REGISTERS - 1, 33));
    assert_eq!(sketch[ENCODING_AT], DENSE);
    let registers = registers(&sketch);
    assert_eq!((registers[7], registers[REGISTERS - 1]), (32, 33));
    assert_eq!(registers.iter().filter(|value| **value > 0).count(), 2);
}

#[test]
fn merging_is_counting_the_union() {
    let [small, middle, large] = [filled(0..100), filled(50..500), filled(400..20_000)];
    assert_eq!([&small, &middle, &large].map(|sketch| sketch[ENCODING_AT]), [SPARSE, SPARSE, DENSE]);
    for (destination, sources) in [
        (&small, vec![&middle[..]]),
        (&small, vec![&middle[..], &large]),
        (&large, vec![&small[..], &middle]),
        (&small, vec![]),
    ] {
        let mut merged = destination.clone();
        store_count(&mut merged, 12).unwrap();
        merge(&mut merged, &sources).unwrap();
        let all = [vec![&destination[..]], sources.clone()].concat();
        assert_eq!(
            count(&merged).unwrap(),
            Count { elements: union(&all).unwrap().count(), was_cached: false }
        );
        assert_eq!(registers(&merged), union(&all).unwrap().registers);
    }
    assert_eq!(Union::default().count(), 0);
}

#[test]
fn what_is_no_sketch() {
    let dense = filled(0..20_000);
    let mut other_encoding = dense.clone();
    other_encoding[ENCODING_AT] = 2;
    for string in [b"".to_vec(), b"HYLL".to_vec(), vec![0; DENSE_BYTES], dense[1..].to_vec(), other_encoding]
    {
        assert_refused(&string, &Error::NotAHyperLogLog);
    }
    for len in [DENSE_BYTES - 1, DENSE_BYTES + 1] {
        let mut other_length = dense.clone();
        other_length.resize(len, 0);
        assert_refused(&other_length, &Error::NotAHyperLogLog);
    }
    let sparse = filled(0..100);
    for broken in
        [sparse[..sparse.len() - 1].to_vec(), [&sparse[..], &[0]].concat(), sparse[..HEADER_BYTES].to_vec()]
    {
        assert_refused(&broken, &Error::CorruptHyperLogLog);
    }
}

fn assert_refused(string: &[u8], error: &Error) {
    let mut changed = string.to_vec();
    assert_eq!(validate(string).as_ref(), Err(error));
    assert_eq!(count(string).as_ref(), Err(error));
    assert_eq!(union(&[&create(), string]).as_ref(), Err(error));
    assert_eq!(add(&mut changed, b"x").as_ref(), Err(error));
    assert_eq!(merge(&mut changed, &[&create()]).as_ref(), Err(error));
    assert_eq!(changed, string);
    let mut destination = create();
    assert_eq!(merge(&mut destination, &[string]).as_ref(), Err(error));
    assert_eq!(destination, create());
}

#[test]
fn dense_registers_do_not_touch_each_other() {
    let mut sketch = create();
    make_dense(&mut sketch);
    let value_of = |index: usize| (index % 63) as u8 + 1;
    for index in (0..REGISTERS).rev() {
        set_dense_register(&mut sketch[HEADER_BYTES..], index, REGISTER_MASK);
        set_dense_register(&mut sketch[HEADER_BYTES..], index, value_of(index));
    }
    let expected: Vec<u8> = (0..REGISTERS).map(value_of).collect();
    assert_eq!(registers(&sketch), expected);
    for (index, value) in expected.iter().enumerate() {
        assert_eq!(dense_register(&sketch[HEADER_BYTES..], index), *value);
    }
}

proptest! {
    #[test]
    fn raised_registers_hold_the_most_of_what_they_got(
        raises in prop::collection::vec((0_usize..64, 1_u8..34), 0..200),
        spread in prop_oneof![Just(1_usize), Just(3), Just(200)],
    ) {
        let mut sketch = create();
        let mut expected = vec![0; REGISTERS];
        for (index, value) in raises {
            let index = index * spread;
            let changes = expected[index] < value;
            expected[index] = value.max(expected[index]);
            prop_assert_eq!(raise(&mut sketch, index, value), changes);
            prop_assert_eq!(validate(&sketch), Ok(()));
        }
        prop_assert_eq!(registers(&sketch), expected);
    }

    /// Nothing that a client can store makes any function panic, read beyond it, or leave something that is no sketch.
    #[test]
    fn any_bytes_behind_a_header(
        opcodes in prop::collection::vec(any::<u8>(), 0..400),
        encoding in 0_u8..3,
        pad: bool,
        element: Vec<u8>,
    ) {
        let mut string = [MAGIC, &[encoding, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, OUT_OF_DATE], &opcodes].concat();
        if pad {
            if encoding == DENSE {
                string.resize(DENSE_BYTES, 0xa5);
            } else {
                let missing = REGISTERS.checked_sub(sparse::runs(&opcodes).map(|run| run.len).sum());
                sparse::push_zeros(&mut string, missing.unwrap_or(0));
            }
        }
        let valid = validate(&string);
        prop_assert_eq!(count(&string).map(|_| ()), valid.clone());
        let mut merged = create();
        prop_assert_eq!(merge(&mut merged, &[&string]), valid.clone());
        prop_assert_eq!(validate(&merged), Ok(()));
        prop_assert_eq!(add(&mut string, &element).map(|_| ()), valid.clone());
        prop_assert_eq!(validate(&string), valid);
    }
}
