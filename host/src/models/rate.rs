//! Requests and tokens in a minute, as a server allows them.

use std::time::Duration;

use tokio::{sync::Mutex, time::Instant};

/// A bucket that fills evenly, up to one minute's worth.
pub(super) struct RateLimit {
    requests: Option<Mutex<Bucket>>,
    tokens: Option<Mutex<Bucket>>,
}

struct Bucket {
    per_minute: f64,
    level: f64,
    at: Instant,
}

impl RateLimit {
    pub(super) fn new(requests_per_minute: Option<u32>, tokens_per_minute: Option<u32>) -> Self {
        let bucket = |per_minute: u32| {
            Mutex::new(Bucket {
                per_minute: f64::from(per_minute),
                level: f64::from(per_minute),
                at: Instant::now(),
            })
        };
        RateLimit {
            requests: requests_per_minute.map(bucket),
            tokens: tokens_per_minute.map(bucket),
        }
    }

    /// Waits until one request of so many tokens may leave. Askers are served in order.
    pub(super) async fn take(&self, tokens: u64) {
        if let Some(bucket) = &self.requests {
            bucket.lock().await.take(1.0).await;
        }
        if let Some(bucket) = &self.tokens {
            #[allow(
                clippy::cast_precision_loss,
                reason = "token counts are far below 2^53"
            )]
            bucket.lock().await.take(tokens as f64).await;
        }
    }
}

impl Bucket {
    async fn take(&mut self, amount: f64) {
        // A request larger than a minute's worth waits for a full bucket, not for ever.
        let amount = amount.min(self.per_minute);
        self.refill();
        let missing = amount - self.level;
        if missing > 0.0 {
            tokio::time::sleep(Duration::from_secs_f64(missing / self.per_minute * 60.0)).await;
            self.refill();
        }
        self.level -= amount;
    }

    fn refill(&mut self) {
        let now = Instant::now();
        let passed = (now - self.at).as_secs_f64() / 60.0;
        self.level = (self.level + passed * self.per_minute).min(self.per_minute);
        self.at = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_minute_brings_as_many_requests_as_the_limit_says() {
        let limit = RateLimit::new(Some(60), None);
        let started = Instant::now();
        for _ in 0..120 {
            limit.take(0).await;
        }
        let seconds = started.elapsed().as_secs_f64();
        assert!((59.0..62.0).contains(&seconds), "{seconds}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_larger_than_the_limit_still_leaves() {
        let limit = RateLimit::new(None, Some(100));
        limit.take(1_000_000).await;
    }
}
