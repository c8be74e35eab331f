//! How a server refuses. etcd's texts are matched in this one place; the client passes them on as they are (facts-etcd
//! 5.1).

use std::time::Duration;

/// A refusal of a server, told apart as far as it matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// "unhealthy cluster": not all members connected for 5 s yet. Wait.
    Unhealthy,
    /// The learner is not in sync with the leader yet. Wait.
    LearnerNotReady,
    /// Another learner is there. List again.
    TooManyLearners,
    /// "Peer URLs already exists", "member ID already exist": somebody added it. List again.
    AlreadyExists,
    /// "can only promote a learner member": it is a voter already. List again.
    AlreadyVoter,
    /// "member not found": it is gone. List again.
    NotFound,
    /// The change would leave fewer started members than a quorum.
    NotEnoughStarted,
    /// A learner does not serve this call.
    NotForLearners,
    /// The revision is ahead of what the member has applied. Ask again.
    FutureRevision,
    /// The revision has been compacted away. Pin another.
    Compacted,
    /// No leader, a change of leader, or a time-out: whether the change was applied is unknown.
    /// List again.
    Unknown,
    /// None of the above.
    Other,
}

impl Refusal {
    /// The refusal that a server's text means.
    #[must_use]
    pub fn of(text: &str) -> Self {
        const TEXTS: [(&str, Refusal); 20] = [
            ("unhealthy cluster", Refusal::Unhealthy),
            ("in sync with leader", Refusal::LearnerNotReady),
            ("too many learner members", Refusal::TooManyLearners),
            ("Peer URLs already exists", Refusal::AlreadyExists),
            ("member ID already exist", Refusal::AlreadyExists),
            ("can only promote a learner member", Refusal::AlreadyVoter),
            ("member not found", Refusal::NotFound),
            ("not enough started members", Refusal::NotEnoughStarted),
            ("rpc not supported for learner", Refusal::NotForLearners),
            ("required revision is a future revision", Refusal::FutureRevision),
            ("required revision has been compacted", Refusal::Compacted),
            ("no leader", Refusal::Unknown),
            ("leader changed", Refusal::Unknown),
            ("not leader", Refusal::Unknown),
            ("bad leader transferee", Refusal::Unknown),
            ("request timed out", Refusal::Unknown),
            ("Timeout expired", Refusal::Unknown),
            ("transport error", Refusal::Unknown),
            ("connect error", Refusal::Unknown),
            ("server stopped", Refusal::Unknown),
        ];
        TEXTS.iter().find(|(part, _)| text.contains(part)).map_or(Self::Other, |&(_, refusal)| refusal)
    }
}

/// A call to a member that did not give what was asked for.
#[derive(Debug, Clone, thiserror::Error)]
pub enum CallError {
    /// The member answered no.
    #[error("{call} on {url}: {text}")]
    Refused {
        /// The call, in etcdctl's words.
        call: &'static str,
        /// The member's client URL.
        url: String,
        /// The server's own text.
        text: String,
        /// What it means here.
        refusal: Refusal,
    },
    /// Nothing came before the deadline.
    #[error("{call} on {url}: no answer within {:.1} s", .deadline.as_secs_f64())]
    Silent {
        /// The call, in etcdctl's words.
        call: &'static str,
        /// The member's client URL.
        url: String,
        /// How long was waited.
        deadline: Duration,
    },
}

impl CallError {
    pub(crate) fn refused(call: &'static str, url: &str, error: &etcd_client::Error) -> Self {
        let text = match error {
            etcd_client::Error::GRpcStatus(status) => match std::error::Error::source(status) {
                // "transport error" alone says too little. Its innermost cause says "connection refused".
                Some(cause) => format!("{}: {}", status.message(), innermost(cause)),
                None => status.message().to_owned(),
            },
            other => other.to_string(),
        };
        let refusal = Refusal::of(&text);
        Self::Refused { call, url: url.to_owned(), text, refusal }
    }

    /// What went wrong, for a sentence that names the member already.
    #[must_use]
    pub fn brief(&self) -> String {
        match self {
            Self::Refused { text, .. } => text.clone(),
            Self::Silent { deadline, .. } => format!("no answer within {:.1} s", deadline.as_secs_f64()),
        }
    }

    /// What the error means. After no answer, whether a change was applied is unknown.
    #[must_use]
    pub fn refusal(&self) -> Refusal {
        match self {
            Self::Refused { refusal, .. } => *refusal,
            Self::Silent { .. } => Refusal::Unknown,
        }
    }
}

fn innermost(mut error: &(dyn std::error::Error + 'static)) -> String {
    while let Some(cause) = error.source() {
        error = cause;
    }
    error.to_string()
}

#[cfg(test)]
mod tests {
    use super::Refusal::{self, *};

    #[test]
    fn every_text_of_the_servers_has_its_meaning() {
        for (text, meaning) in [
            ("etcdserver: unhealthy cluster", Unhealthy),
            ("etcdserver: can only promote a learner member which is in sync with leader", LearnerNotReady),
            ("etcdserver: can only promote a learner member", AlreadyVoter),
            ("etcdserver: too many learner members in cluster", TooManyLearners),
            ("etcdserver: Peer URLs already exists", AlreadyExists),
            ("etcdserver: member not found", NotFound),
            ("etcdserver: re-configuration failed due to not enough started members", NotEnoughStarted),
            ("etcdserver: rpc not supported for learner", NotForLearners),
            ("etcdserver: mvcc: required revision is a future revision", FutureRevision),
            ("etcdserver: mvcc: required revision has been compacted", Compacted),
            ("etcdserver: request timed out, possibly due to connection lost", Unknown),
            ("tcp connect error: Connection refused (os error 111)", Unknown),
            ("etcdserver: something new", Other),
        ] {
            assert_eq!(Refusal::of(text), meaning, "{text}");
        }
    }
}
