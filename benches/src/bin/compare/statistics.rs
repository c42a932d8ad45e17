//! Medians, and ratios pair by pair.

/// The middle value, or the mean of the two in the middle; `None` of nothing.
pub(crate) fn median(values: impl IntoIterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len() % 2 == 1 {
        Some(values[middle])
    } else {
        Some((values.get(middle.checked_sub(1)?)? + values[middle]) / 2.0)
    }
}

/// How many times faster one store was, over the rounds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Ratio {
    pub(crate) median: f64,
    pub(crate) lowest: f64,
    pub(crate) highest: f64,
}

impl Ratio {
    /// Each round's two runs are neighbours in time, so the machine's drift falls out of their ratio. `None` without a complete round.
    pub(crate) fn pair_by_pair(ours: &[f64], theirs: &[f64]) -> Option<Ratio> {
        let ratios: Vec<f64> = ours.iter().zip(theirs).map(|(ours, theirs)| ours / theirs).collect();
        Some(Ratio {
            median: median(ratios.iter().copied())?,
            lowest: ratios.iter().copied().min_by(f64::total_cmp)?,
            highest: ratios.iter().copied().max_by(f64::total_cmp)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn median_of_odd_even_one_and_none() {
        assert_eq!(median([3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median([4.0, 1.0, 3.0, 2.0]), Some(2.5));
        assert_eq!(median([7.0]), Some(7.0));
        assert_eq!(median([]), None);
    }

    #[test]
    fn drift_of_the_machine_falls_out_of_the_ratio() {
        // The machine got ten times slower from the first round to the second.
        let ratio = Ratio::pair_by_pair(&[3000.0, 300.0, 4000.0], &[1000.0, 100.0, 1000.0]);
        assert_eq!(ratio, Some(Ratio { median: 3.0, lowest: 3.0, highest: 4.0 }));
        assert_eq!(Ratio::pair_by_pair(&[1.0], &[]), None);
    }
}
