//! Numbers as people read them.

/// With commas between the thousands.
pub(super) fn whole(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (n, digit) in digits.chars().enumerate() {
        if n > 0 && (digits.len() - n).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// With so many places after the point, and a minus sign that is as wide as a plus.
pub(super) fn fixed(number: f64, places: usize) -> String {
    if !number.is_finite() {
        return "–".to_owned();
    }
    let text = format!("{number:.places$}");
    match text.strip_prefix('-') {
        // Rounded to nothing.
        Some(rest) if rest.chars().all(|c| c == '0' || c == '.') => rest.to_owned(),
        Some(rest) => format!("−{rest}"),
        None => text,
    }
}

/// As [`fixed`], with its sign whatever it is.
pub(super) fn signed(number: f64, places: usize) -> String {
    let text = fixed(number, places);
    match number > 0.0 && number.is_finite() {
        true => format!("+{text}"),
        false => text,
    }
}

/// A part of a whole in %.
pub(super) fn share(part: u64, whole: u64) -> String {
    if whole == 0 {
        return "–".to_owned();
    }
    let percent = 100.0 * part as f64 / whole as f64;
    match percent {
        percent if part > 0 && percent < 0.1 => "<0.1 %".to_owned(),
        percent if percent < 10.0 && part > 0 => format!("{percent:.1} %"),
        percent => format!("{percent:.0} %"),
    }
}

/// A time in its two largest units.
pub(super) fn duration(seconds: f64) -> String {
    if !seconds.is_finite() || seconds < 0.0 {
        return "–".to_owned();
    }
    if seconds < 60.0 {
        return format!("{seconds:.1} s");
    }
    let minutes = (seconds / 60.0).floor() as u64;
    match minutes {
        0..60 => format!("{minutes} min {:.0} s", (seconds % 60.0).floor()),
        60..1440 => format!("{} h {} min", minutes / 60, minutes % 60),
        _ => format!("{} d {} h", minutes / 1440, minutes % 1440 / 60),
    }
}

/// US dollars, with as many places as a small amount needs.
pub(super) fn usd(dollars: f64) -> String {
    match dollars {
        d if !d.is_finite() => "–".to_owned(),
        0.0 => "$0".to_owned(),
        d if d.abs() < 0.01 => format!("${d:.6}"),
        d if d.abs() < 1.0 => format!("${d:.4}"),
        d => format!("${d:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_read_well() {
        assert_eq!(whole(0), "0");
        assert_eq!(whole(52_002), "52,002");
        assert_eq!(whole(1_234_567), "1,234,567");
        assert_eq!(fixed(-0.0004, 3), "0.000");
        assert_eq!(fixed(-1.5, 1), "−1.5");
        assert_eq!(signed(0.25, 2), "+0.25");
        assert_eq!(signed(-0.25, 2), "−0.25");
        assert_eq!(fixed(f64::NAN, 2), "–");
        assert_eq!(share(1, 3), "33 %");
        assert_eq!(share(1, 52_002), "<0.1 %");
        assert_eq!(share(0, 5), "0 %");
        assert_eq!(share(0, 0), "–");
        assert_eq!(duration(0.26), "0.3 s");
        assert_eq!(duration(61.0), "1 min 1 s");
        assert_eq!(duration(798.2), "13 min 18 s");
        assert_eq!(duration(90_000.0), "1 d 1 h");
        assert_eq!(usd(0.0), "$0");
        assert_eq!(usd(0.0012), "$0.001200");
        assert_eq!(usd(412.5), "$412.50");
    }
}
