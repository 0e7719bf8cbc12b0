//! Numbers for people.

/// With so many digits behind the point, or in scientific notation where that would be a wall of digits: the perplexity
/// of a model that knows nothing yet may have 69 of them.
pub fn readable(value: f64, digits: usize) -> String {
    match value.abs() {
        size if size.is_finite() && size >= 1e6 => format!("{value:.2e}"),
        _ => format!("{value:.digits$}"),
    }
}

#[cfg(test)]
mod tests {
    use super::readable;

    #[test]
    fn no_number_is_a_wall_of_digits() {
        let shown = [0.5, 1234.567, -2e6, 1.5e69, f64::INFINITY].map(|value| readable(value, 2));
        assert_eq!(shown, ["0.50", "1234.57", "-2.00e6", "1.50e69", "inf"]);
        assert_eq!(readable(f64::NAN, 4), "NaN");
    }
}
