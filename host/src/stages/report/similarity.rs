//! How near candidates came to their nearest neighbours.

use rusqlite::Connection;
use serde::Serialize;

use super::{count, rows};

/// Bars of a distribution.
const BUCKETS: u32 = 20;

/// Nearest scores of the candidates that one filter compared.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Similarity {
    /// Place of the filter in the manifest, from 0.
    pub filter: u64,
    /// Its name.
    pub plugin: String,
    /// How many it kept.
    pub kept: u64,
    /// How many it dropped.
    pub dropped: u64,
    /// Mean score of what it kept.
    pub kept_mean: Option<f64>,
    /// Mean score of what it dropped.
    pub dropped_mean: Option<f64>,
    /// The scores, counted.
    pub buckets: Vec<Bucket>,
}

/// Scores from `from` up to `to`; the last bucket holds its end too.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Bucket {
    /// Lower end.
    pub from: f64,
    /// Upper end.
    pub to: f64,
    /// Kept candidates.
    pub kept: u64,
    /// Dropped candidates.
    pub dropped: u64,
}

pub(super) fn read(c: &Connection) -> rusqlite::Result<Vec<Similarity>> {
    // The bound keeps out infinities, which JSON can spell.
    let sql = "SELECT filter, plugin, min(nearest_score), max(nearest_score),
                      sum(decision <> 'drop'), sum(decision = 'drop'),
                      avg(CASE WHEN decision <> 'drop' THEN nearest_score END),
                      avg(CASE WHEN decision = 'drop' THEN nearest_score END)
               FROM verdicts WHERE abs(nearest_score) < 1e9 GROUP BY filter, plugin ORDER BY filter";
    let filters = rows(c, sql, [], |r| {
        let range: (f64, f64) = (r.get(2)?, r.get(3)?);
        let similarity = Similarity {
            filter: count(r, 0)?,
            plugin: r.get(1)?,
            kept: count(r, 4)?,
            dropped: count(r, 5)?,
            kept_mean: r.get(6)?,
            dropped_mean: r.get(7)?,
            buckets: Vec::new(),
        };
        Ok((r.get::<_, i64>(0)?, similarity, range))
    })?;
    filters
        .into_iter()
        .map(|(filter, mut similarity, (least, most))| {
            // Nearly every similarity lies between 0 and 1, and then buckets of 0.05 are the
            // easiest to read and to ask for.
            let (from, to) = if least >= 0.0 && most <= 1.0 {
                (0.0, 1.0)
            } else {
                (least, most.max(least + 1e-6))
            };
            let per_unit = f64::from(BUCKETS) / (to - from);
            similarity.buckets = (0..BUCKETS)
                .map(|n| Bucket {
                    from: from + f64::from(n) / per_unit,
                    to: from + f64::from(n + 1) / per_unit,
                    kept: 0,
                    dropped: 0,
                })
                .collect();
            let sql = "SELECT min(CAST((nearest_score - ?2) * ?3 AS INTEGER), ?4 - 1) AS bucket,
                              sum(decision <> 'drop'), sum(decision = 'drop')
                       FROM verdicts WHERE filter = ?1 AND abs(nearest_score) < 1e9
                       GROUP BY bucket";
            let parameters = (filter, from, per_unit, BUCKETS);
            for (bucket, kept, dropped) in rows(c, sql, parameters, |r| {
                Ok((count(r, 0)?, count(r, 1)?, count(r, 2)?))
            })? {
                if let Some(bucket) = similarity.buckets.get_mut(bucket as usize) {
                    (bucket.kept, bucket.dropped) = (kept, dropped);
                }
            }
            Ok(similarity)
        })
        .collect()
}
