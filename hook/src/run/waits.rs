//! What a run waits for, for its log.

use std::time::Duration;

use tokio::time::Instant;
use tracing::info;

/// After how long a wait that goes on is said again.
const REPEAT: Duration = Duration::from_secs(10);

/// What is being waited for; it is said once, and again after [`REPEAT`].
#[derive(Default)]
pub struct Waits {
    what: Option<(String, Instant, Instant)>,
}

impl Waits {
    /// Says what is waited for, if it is something new or was last said a while ago.
    pub fn say(&mut self, what: &str) {
        let now = Instant::now();
        match &mut self.what {
            Some((said, since, last)) if said == what => {
                if last.elapsed() >= REPEAT {
                    info!("still waiting for {what} ({} s)", since.elapsed().as_secs());
                    *last = now;
                }
            }
            other => {
                info!("waiting for {what}");
                *other = Some((what.to_owned(), now, now));
            }
        }
    }

    /// Nothing is waited for any more.
    pub fn over(&mut self) {
        self.what = None;
    }

    /// What has been waited for long enough to be said again, and for how many seconds.
    pub fn lasting(&self) -> Option<(&str, u64)> {
        let (what, since, _) = self.what.as_ref().filter(|(_, since, _)| since.elapsed() >= REPEAT)?;
        Some((what, since.elapsed().as_secs()))
    }

    /// What is waited for.
    pub fn what(&self) -> Option<&str> {
        self.what.as_ref().map(|(what, ..)| what.as_str())
    }
}
