//! Whether two numbers go together.

/// Pearson's correlation of the pairs, from −1 to 1.
///
/// `None` if one side never varies.
///
/// ```
/// use albedo_core::stats::correlation;
///
/// assert!((correlation(&[(1.0, 4.0), (2.0, 3.0), (3.0, 1.0)]).unwrap() + 0.98198).abs() < 1e-5);
/// assert_eq!(correlation(&[(1.0, 2.0), (1.0, 3.0)]), None);
/// ```
pub fn correlation(pairs: &[(f64, f64)]) -> Option<f64> {
    let n = pairs.len().max(1) as f64;
    let center = pairs.iter().map(|pair| pair.0).sum::<f64>() / n;
    let other_center = pairs.iter().map(|pair| pair.1).sum::<f64>() / n;
    let (mut both, mut squares, mut other_squares) = (0.0, 0.0, 0.0);
    for (one, other) in pairs {
        both += (one - center) * (other - other_center);
        squares += (one - center).powi(2);
        other_squares += (other - other_center).powi(2);
    }
    let scale = (squares * other_squares).sqrt();
    (scale > 0.0).then(|| both / scale)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_1_or_minus_1_and_what_never_varies_is_nothing() {
        assert_eq!(correlation(&[]), None);
        assert_eq!(correlation(&[(1.0, 2.0), (1.0, 3.0)]), None);
        let line: Vec<_> = (0..9).map(|x| (f64::from(x), 3.0 - 2.0 * f64::from(x))).collect();
        assert!((correlation(&line).expect("varies") + 1.0).abs() < 1e-12);
        let back: Vec<_> = line.iter().map(|(x, y)| (*y, -*x)).collect();
        assert!((correlation(&back).expect("varies") - 1.0).abs() < 1e-12);
    }
}
