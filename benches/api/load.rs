//! An open loop: requests leave at their times, whether those before were answered or not, and each one's time counts from when it was to
//! leave. A server that stalls is not spared the requests that would have come meanwhile.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use reqwest::{Client, Request};
use tokio::task::JoinSet;

/// Answered before anything is measured.
const WARM_UP: Duration = Duration::from_secs(2);

/// Makes the n-th request.
pub trait Make {
    fn make(&self, number: usize) -> Result<Request>;
}

/// Times until the last byte of each answer, in order of size.
pub struct Measured(Vec<Duration>);

impl Measured {
    pub const fn answers(&self) -> usize {
        self.0.len()
    }

    /// The time within which this share of the answers came: 0.5, 0.99.
    pub fn quantile(&self, share: f64) -> Duration {
        let last = self.0.len().saturating_sub(1);
        let index = (last as f64 * share).ceil() as usize;
        self.0.get(index.min(last)).copied().unwrap_or_default()
    }
}

/// Sends `rate` requests a second for so long.
///
/// # Errors
/// A request was not answered with a success.
pub async fn run(maker: &impl Make, rate: u32, lasts: Duration) -> Result<Measured> {
    let client = Arc::new(Client::builder().no_proxy().timeout(Duration::from_secs(30)).build()?);
    let (interval, mut number) = (Duration::from_secs(1) / rate, 0);
    let mut measured = Vec::new();
    for (phase, lasts) in [WARM_UP, lasts].into_iter().enumerate() {
        let mut waiting = JoinSet::new();
        let began = Instant::now();
        for turn in 0u32.. {
            let leaves = began + interval * turn;
            if leaves >= began + lasts {
                break;
            }
            let request = maker.make(number)?;
            number += 1;
            tokio::time::sleep_until(leaves.into()).await;
            let client = Arc::clone(&client);
            waiting.spawn(async move { answered(&client, request, leaves).await });
        }
        let mut times = Vec::new();
        while let Some(time) = waiting.join_next().await {
            times.push(time??);
        }
        if phase == 1 {
            measured = times;
        }
    }
    measured.sort_unstable();
    Ok(Measured(measured))
}

async fn answered(client: &Client, request: Request, leaves: Instant) -> Result<Duration> {
    let answer = client.execute(request).await.context("a request was not answered")?;
    let status = answer.status();
    let body = answer.bytes().await.context("an answer broke off")?;
    let time = leaves.elapsed();
    ensure!(status.is_success(), "an answer was {status}: {}", String::from_utf8_lossy(&body));
    Ok(time)
}
