//! A graph of letters: a column for each number, as high as it is, and its label below, from top to bottom.
//!
//! Four rows of three heights each, the lowest number being at the bottom and the highest at the top; what does not fit beside each other goes below.

/// Columns beside each other.
const COLUMNS_MAX: usize = 80;
const ROWS: u64 = 4;
/// The end of a column, by how much of its row it takes.
const ENDS: [char; 3] = ['_', 'o', '#'];
/// What stands below its end.
const TRUNK: char = '|';

/// Draws numbers with their labels, which are ASCII.
pub fn sparkline(points: &[(u64, String)]) -> String {
    let least = points.iter().map(|(number, _)| *number).min().unwrap_or(0);
    let span = points.iter().map(|(number, _)| *number).max().unwrap_or(0) - least;
    let steps = ROWS * ENDS.len() as u64;
    let height = |number: u64| match span {
        0 => 0,
        // Numbers may be as great as any.
        _ => (u128::from(number - least) * u128::from(steps) / u128::from(span)).min(u128::from(steps - 1))
            as u64,
    };
    let parts: Vec<String> = points.chunks(COLUMNS_MAX).map(|part| draw(part, height)).collect();
    parts.join("\n")
}

fn draw(points: &[(u64, String)], height: impl Fn(u64) -> u64) -> String {
    let ends = ENDS.len() as u64;
    let mut text = String::new();
    for row in (0..ROWS).rev() {
        text.extend(points.iter().map(|(number, _)| match height(*number) {
            height if height / ends == row => ENDS[(height % ends) as usize],
            height if height / ends > row => TRUNK,
            _ => ' ',
        }));
        text.push('\n');
    }
    text.extend(points.iter().map(|_| ' '));
    text.push('\n');
    let longest = points.iter().map(|(_, label)| label.len()).max().unwrap_or(0);
    for index in 0..longest {
        text.extend(
            points.iter().map(|(_, label)| label.as_bytes().get(index).map_or(' ', |byte| char::from(*byte))),
        );
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(heights: &[u64]) -> Vec<(u64, String)> {
        let last = heights.len() - 1;
        heights.iter().enumerate().map(|(index, height)| (*height, format!("{}s", last - index))).collect()
    }

    /// What Redis 7.0.15 drew of the same numbers.
    #[test]
    fn it_is_drawn_as_in_redis() {
        let heights = [31, 10, 45, 14, 52, 45, 45, 43, 26, 2, 20, 52, 8, 40, 2, 5, 3, 14, 20, 8, 17];
        let expected = [
            "  o #oo_   # _       ",
            "_ | ||||   | |       ",
            "| | ||||# o| |    o _",
            "|o|#|||||_||o|___#|o|",
            "                     ",
            "211111111119876543210",
            "09876543210ssssssssss",
            "sssssssssss          ",
            "",
        ];
        assert_eq!(sparkline(&seconds(&heights)), expected.join("\n"));
        assert_eq!(sparkline(&seconds(&[100])), " \n \n \n_\n \n0\ns\n");
    }

    #[test]
    fn what_does_not_fit_goes_below() {
        let mut heights = vec![2; 80];
        heights.extend([5, 2, 20, u64::MAX]);
        let text = sparkline(&seconds(&heights));
        let parts: Vec<&str> = text.split("\n\n").collect();
        assert_eq!(parts.len(), 2);
        // One scale for all.
        assert_eq!(parts[0].lines().nth(3), Some("_".repeat(80).as_str()));
        assert_eq!(parts[1], "   #\n   |\n   |\n___|\n    \n3210\nssss\n");
        assert_eq!(sparkline(&[]), "");
    }
}
