//! Lengths of time as manifests write them: a whole number and a unit.

use std::time::Duration;

/// `None` for what is not a whole number and a unit.
pub(super) fn parse(text: &str) -> Option<Duration> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit())?;
    let number: u64 = text[..digits].parse().ok()?;
    match text[digits..].trim_start() {
        "ms" => Some(Duration::from_millis(number)),
        "s" => Some(Duration::from_secs(number)),
        "m" => number.checked_mul(60).map(Duration::from_secs),
        "h" => number.checked_mul(3600).map(Duration::from_secs),
        _ => None,
    }
}

/// A length of time as a manifest writes it.
pub(super) fn show(duration: Duration) -> String {
    match (duration.subsec_millis(), duration.as_secs()) {
        (0, seconds) => format!("{seconds}s"),
        _ => format!("{}ms", duration.as_millis()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_of_time() {
        let seconds = |text| parse(text).map(|duration| duration.as_secs_f64());
        assert_eq!(seconds("120s"), Some(120.0));
        assert_eq!(seconds("2m"), Some(120.0));
        assert_eq!(seconds("1 h"), Some(3600.0));
        assert_eq!(seconds("1500ms"), Some(1.5));
        for bad in [
            "120",
            "s",
            "-5s",
            "1.5m",
            "2 weeks",
            "",
            "99999999999999999999s",
        ] {
            assert_eq!(seconds(bad), None, "{bad}");
        }
        assert_eq!(show(Duration::from_millis(1500)), "1500ms");
        assert_eq!(show(Duration::from_secs(120)), "120s");
    }
}
