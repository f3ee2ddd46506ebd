//! A figure with its error, and what may be said of it.

use rusqlite::Row;
use serde::Serialize;

/// Half the width of a 95 % interval, in standard errors.
const Z: f64 = 1.96;

/// An estimate with its standard error.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Estimate {
    /// The figure.
    pub value: f64,
    /// Its standard error; `None` where a single observation leaves it unknown.
    pub standard_error: Option<f64>,
}

impl Estimate {
    /// From a value and the square of its standard error.
    pub(super) fn from_variance(value: f64, variance: Option<f64>) -> Self {
        Estimate {
            value,
            // A sum of squares: rounding cannot make it negative, a damaged ledger can.
            standard_error: variance.map(|v| v.max(0.0).sqrt()),
        }
    }

    /// From columns `value` and `standard_error` of a row.
    pub(super) fn from_row(row: &Row<'_>, value: usize, error: usize) -> rusqlite::Result<Self> {
        Ok(Estimate {
            value: row.get::<_, Option<f64>>(value)?.unwrap_or(f64::NAN),
            standard_error: row.get(error)?,
        })
    }

    /// Half the width of the 95 % interval: 1.96 standard errors.
    #[must_use]
    pub fn margin(&self) -> Option<f64> {
        self.standard_error.map(|error| Z * error)
    }

    /// -1 or 1 where the 95 % interval lies below or above `reference`, 0 where it holds it;
    /// `None` where there is no interval.
    #[must_use]
    pub fn against(&self, reference: f64) -> Option<i8> {
        let margin = self.margin()?;
        Some(match self.value - reference {
            distance if distance > margin => 1,
            distance if distance < -margin => -1,
            _ => 0,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_estimate_without_an_error_says_nothing() {
        let estimate = |error| Estimate {
            value: 54.0,
            standard_error: error,
        };
        assert_eq!(estimate(None).against(50.0), None);
        assert_eq!(estimate(Some(3.0)).against(50.0), Some(0));
        assert_eq!(estimate(Some(2.0)).against(50.0), Some(1));
        assert_eq!(estimate(Some(2.0)).against(60.0), Some(-1));
    }
}
