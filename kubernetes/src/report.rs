//! What a person reads: log lines, Events on the StatefulSet, and the last line of a failed run.

use std::io::IsTerminal;
use std::process::ExitCode;

use anyhow::Context;
use clap::ValueEnum;
use k8s_openapi::api::core::v1::ObjectReference;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use tracing::{error, info, warn};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::writer::BoxMakeWriter;

/// Where the kubelet reads a container's termination message. The path is the default of `terminationMessagePath`.
const TERMINATION_LOG: &str = "/dev/termination-log";

/// How log lines are written.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// For programs.
    Json,
}

/// Where log lines go.
#[derive(Clone, Copy, Debug)]
pub enum LogTo {
    /// To standard output, for a command whose log is its output.
    Stdout,
    /// To standard error, for a command that prints an answer, which a program may read.
    Stderr,
}

/// Starts logging.
///
/// # Errors
/// When the filter is not one.
pub fn log(to: LogTo, format: LogFormat, filter: &str) -> anyhow::Result<()> {
    // The client's own lines about refused requests are turned off, because this program reports them. A later
    // directive wins.
    let filter = EnvFilter::try_new(format!("kube_client=off,{filter}"))
        .with_context(|| format!("--log-filter {filter:?} is not a filter"))?;
    let (writer, terminal) = match to {
        LogTo::Stdout => (BoxMakeWriter::new(std::io::stdout), std::io::stdout().is_terminal()),
        LogTo::Stderr => (BoxMakeWriter::new(std::io::stderr), std::io::stderr().is_terminal()),
    };
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_target(false).with_writer(writer);
    match format {
        LogFormat::Text => lines.with_ansi(terminal).init(),
        LogFormat::Json => lines.json().flatten_event(true).init(),
    }
    Ok(())
}

/// Says why the run failed, where each of its readers looks: in the log, in the pod's status, and
/// as the exit code, which is all that Helm sees.
pub fn failed(why: &str) -> ExitCode {
    error!("{why}");
    last_word(why);
    ExitCode::FAILURE
}

/// Writes the run's result into the pod's termination message.
pub fn last_word(text: &str) {
    // Outside a pod there is no such file, and nobody to read it.
    if let Err(error) = std::fs::OpenOptions::new().write(true).open(TERMINATION_LOG).and_then(|mut file| {
        use std::io::Write;
        file.write_all(text.as_bytes())
    }) {
        tracing::debug!(%error, "no termination log");
    }
}

/// Events on the StatefulSet: `kubectl describe` is the progress bar.
pub struct Reports {
    recorder: Recorder,
    about: ObjectReference,
}

impl Reports {
    /// Reports about one StatefulSet.
    #[must_use]
    pub fn about(client: kube::Client, about: ObjectReference, pod: &str) -> Self {
        let reporter = Reporter { controller: "etcd-scaler".into(), instance: Some(pod.to_owned()) };
        Self { recorder: Recorder::new(client, reporter), about }
    }

    /// Something was done.
    pub async fn did(&self, reason: &str, note: String) {
        info!("{note}");
        self.publish(EventType::Normal, reason, note).await;
    }

    /// Something went wrong, and the run goes on.
    pub async fn trouble(&self, reason: &str, note: String) {
        warn!("{note}");
        self.failed(reason, note).await;
    }

    /// The run ends with this; [`failed`] logs it.
    pub async fn failed(&self, reason: &str, note: String) {
        self.publish(EventType::Warning, reason, note).await;
    }

    async fn publish(&self, type_: EventType, reason: &str, mut note: String) {
        // The API server refuses notes of more than 1024 bytes.
        if note.len() > 1000 {
            let end = note.floor_char_boundary(1000);
            note.truncate(end);
        }
        // The recorder counts Events with the same reason and action as repeats of the first, and drops the notes of
        // the later ones. So the note is the action, too (at most 128 bytes).
        let action = note[..note.floor_char_boundary(128)].to_owned();
        let event = Event { type_, reason: reason.to_owned(), note: Some(note), action, secondary: None };
        // Events are for people, so a lost one stops nothing.
        if let Err(error) = self.recorder.publish(&event, &self.about).await {
            warn!(%error, reason, "failed to write an Event");
        }
    }
}
