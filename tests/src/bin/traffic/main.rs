//! traffic: a load on etcd, and the proof that nothing of it was lost. Runs as a pod, so that it
//! asks the members where they are, on any cluster.
//!
//! `write` puts numbered keys and notes in an append-only file what was acknowledged and when;
//! `verify` reads every acknowledged key back from every member by that member's own URL;
//! `stats` only counts; `members` prints how the member list changed while the load ran.

mod counts;
mod keys;
mod members;
mod reads;
mod verify;
mod write;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use jiff::Timestamp;
use tests::journal;

use counts::{Counts, Window};
use verify::Member;

#[derive(Parser)]
#[command(version, about = "A load on etcd, and the proof that nothing of it was lost")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Put numbered keys until the file `stop` is in the state directory; then wait to be ended.
    Write {
        /// A client URL of the cluster: its Service.
        #[arg(long)]
        endpoint: String,
        /// How many clients put, each its own keys one after another.
        #[arg(long, default_value_t = 3)]
        clients: u32,
        /// How long a client pauses between two puts: three clients at 10 ms put 300 keys/s.
        #[arg(long, default_value = "10ms", value_parser = humantime::parse_duration)]
        pause: Duration,
        #[command(flatten)]
        state: State,
    },
    /// Stop the load, then read every acknowledged key back from every member. Fails if one is
    /// lost or wrong.
    Verify {
        /// The members: NAME=URL, separated by commas. Each is asked by its own URL.
        #[arg(long, required = true, value_delimiter = ',')]
        members: Vec<Member>,
        /// Leave the load running: what was acknowledged until now is read back.
        #[arg(long)]
        running: bool,
        #[command(flatten)]
        counted: Counted,
    },
    /// Count what was acknowledged, without stopping the load.
    Stats(#[command(flatten)] Counted),
    /// How the member list changed while the load ran, a JSON object per change.
    Members(#[command(flatten)] State),
    /// What every client saw: each file with a line `== NAME` before it.
    Journals(#[command(flatten)] State),
}

#[derive(Args)]
struct State {
    /// Where the files are.
    #[arg(long = "state", default_value = "/state")]
    directory: PathBuf,
}

#[derive(Args)]
struct Counted {
    #[command(flatten)]
    state: State,
    /// Count this window too: from when (RFC 3339, or milliseconds since 1970).
    #[arg(long, value_parser = instant)]
    from: Option<i64>,
    /// Until when; now, if not given.
    #[arg(long, value_parser = instant, requires = "from")]
    to: Option<i64>,
    /// Print a table for people instead of JSON.
    #[arg(long)]
    table: bool,
}

impl Counted {
    fn counts(&self) -> anyhow::Result<Counts> {
        let window = self.from.map(|from| Window { from, to: self.to.unwrap_or_else(journal::now) });
        Counts::of(&journal::read_all(&self.state.directory)?, window)
    }
}

/// Milliseconds since 1970, from either spelling.
fn instant(text: &str) -> Result<i64, String> {
    if let Ok(milliseconds) = text.parse() {
        return Ok(milliseconds);
    }
    let timestamp: Timestamp = text.parse().map_err(|error| format!("neither RFC 3339 nor milliseconds: {error}"))?;
    Ok(timestamp.as_millisecond())
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match run(Cli::parse().command).await {
        Ok(code) => code,
        Err(error) => {
            eprintln!("traffic: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Write { endpoint, clients, pause, state } => {
            write::run(endpoint, clients, pause, state.directory).await?;
        }
        Command::Verify { members, running, counted } => {
            if !running {
                write::stop(&counted.state.directory).await?;
            }
            let counts = counted.counts()?;
            let reads = verify::read_back(&members, &counts.acknowledged_by_client).await?;
            print!("{}", if counted.table { counts.table(&reads) } else { counts.json(&reads) });
            if reads.iter().any(|read| read.lost + read.wrong > 0) {
                return Ok(ExitCode::FAILURE);
            }
        }
        Command::Stats(counted) => {
            let counts = counted.counts()?;
            print!("{}", if counted.table { counts.table(&[]) } else { counts.json(&[]) });
        }
        Command::Members(state) => print!("{}", members::read(&state.directory)?),
        Command::Journals(state) => print!("{}", journal::print(&state.directory)?),
    }
    Ok(ExitCode::SUCCESS)
}
