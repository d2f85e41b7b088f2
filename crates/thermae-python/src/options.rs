//! What `open` was asked for, as the engine takes it. Ranges and combinations are the engine's to judge.

use pyo3::prelude::*;
use pyo3::types::{PyBool, PyDict, PyInt, PyString};
use thermae_core::{Options, ShmPlacement};

use crate::errors::{IntoPython, invalid_option, wrong_type};

/// Reads a size: an integer number of bytes, or text such as "512MiB".
///
/// Raises `InvalidOptionError` for a size that is not understood.
#[pyfunction]
#[pyo3(signature = (size, name="size"))]
pub(crate) fn parse_size(size: &Bound<'_, PyAny>, name: &str) -> PyResult<u64> {
    let py = size.py();
    if let Ok(text) = size.cast::<PyString>() {
        return thermae_core::parse_size(&text.to_string_lossy())
            .map_err(|error| invalid_option(py, format!("{name}: {error}")));
    }
    if size.is_instance_of::<PyInt>() && !size.is_instance_of::<PyBool>() {
        return size.extract().map_err(|_| {
            invalid_option(py, format!("{name} = {size} is no size: give 0 or more bytes, below 2**64"))
        });
    }
    let kind = size.get_type().name()?;
    Err(wrong_type(py, format!("{name} must be a number of bytes or text such as \"512MiB\", not {kind}")))
}

/// The engine's options from keyword arguments; names that nobody knows are refused by `thermae.options`.
pub(crate) fn engine_options(given: &Bound<'_, PyDict>) -> PyResult<Options> {
    let py = given.py();
    let mut options = Options::default();
    for (name, value) in given {
        let name: String = name.extract()?;
        if value.is_none() {
            continue;
        }
        match name.as_str() {
            "hot" => options.hot_bytes = Some(parse_size(&value, "hot")?),
            "warm" => options.warm_bytes = Some(parse_size(&value, "warm")?),
            "warm_directory" => {
                options.warm_directory = Some(value.extract().map_err(|_| {
                    let kind =
                        value.get_type().name().map_or_else(|_| "?".to_string(), |kind| kind.to_string());
                    wrong_type(py, format!("warm_directory must be a path, not {kind}"))
                })?);
            }
            "index" => options.index = Some(word(&name, &value)?.parse().into_python(py)?),
            "cold" => options.cold_bytes = Some(parse_size(&value, "cold")?),
            "frame" => {
                let bytes = parse_size(&value, "frame")?;
                options.frame_bytes = Some(u32::try_from(bytes).map_err(|_| {
                    invalid_option(py, format!("frame = {bytes} is no frame size: use \"1MiB\" or \"8MiB\""))
                })?);
            }
            "durability" => {
                options.durability = Some(word(&name, &value)?.parse().into_python(py)?);
            }
            "when_full" => options.when_full = Some(word(&name, &value)?.parse().into_python(py)?),
            "placement" => options.shm = placement(py, &word(&name, &value)?)?,
            "read_only" => options.read_only = flag(&name, &value)?,
            "create" => options.create = flag(&name, &value)?,
            "verify_reads" => options.verify_reads = flag(&name, &value)?,
            "salvage" => options.salvage = flag(&name, &value)?,
            "background" => options.background = flag(&name, &value)?,
            "participants_max" => {
                let number = if value.is_instance_of::<PyBool>() { None } else { value.extract().ok() };
                options.participants_max = number.ok_or_else(|| {
                    invalid_option(
                        py,
                        format!("participants_max = {value} is no number of processes: use 1 to 4096"),
                    )
                })?;
            }
            _ => return Err(invalid_option(py, format!("the option {name:?} is unknown: remove it"))),
        }
    }
    Ok(options)
}

pub(crate) fn word(name: &str, value: &Bound<'_, PyAny>) -> PyResult<String> {
    value.extract().map_err(|_| {
        let kind = value.get_type().name().map_or_else(|_| "?".to_string(), |kind| kind.to_string());
        wrong_type(value.py(), format!("{name} must be a str, not {kind}"))
    })
}

fn flag(name: &str, value: &Bound<'_, PyAny>) -> PyResult<bool> {
    value.extract().map_err(|_| {
        let kind = value.get_type().name().map_or_else(|_| "?".to_string(), |kind| kind.to_string());
        wrong_type(value.py(), format!("{name} must be True or False, not {kind}"))
    })
}

fn placement(py: Python<'_>, word: &str) -> PyResult<ShmPlacement> {
    match word {
        "auto" => Ok(ShmPlacement::Auto),
        "shared_memory" => Ok(ShmPlacement::SharedMemory),
        "directory" => Ok(ShmPlacement::Directory),
        _ => Err(invalid_option(
            py,
            format!("placement {word:?} is unknown: use \"auto\", \"shared_memory\" or \"directory\""),
        )),
    }
}
