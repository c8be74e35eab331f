//! The values of annotations of the StatefulSet: those that a person or a chart writes, and one that the Job writes.

use std::fmt;
use std::str::FromStr;

use super::names::OVERRIDE;

/// The value of the annotation [`OVERRIDE`], `<count>: <reason>`: a person wants this count although a rule that may be
/// lifted refuses it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Override {
    /// For this count and no other.
    pub count: u32,
    /// In the person's words.
    pub reason: String,
}

impl Override {
    /// Reads the annotation's value.
    ///
    /// # Errors
    /// What it has to be.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (count, reason) = text.split_once(':').unwrap_or((text, ""));
        match (count.trim().parse(), reason.trim()) {
            (Ok(count), reason) if !reason.is_empty() => Ok(Self { count, reason: reason.to_owned() }),
            _ => Err(format!("the annotation {OVERRIDE} is {text:?}; it has to be '<count>: <reason>'")),
        }
    }
}

/// What happens at an upgrade to a count that was set through `statefulsets/scale`, if the release has another one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnReset {
    /// The upgrade is refused.
    #[default]
    Refuse,
    /// The live count stays.
    Keep,
    /// The release's count is what is wanted now.
    Follow,
}

impl FromStr for OnReset {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "refuse" => Ok(Self::Refuse),
            "keep" => Ok(Self::Keep),
            "follow" => Ok(Self::Follow),
            other => Err(format!("{other:?} is none of refuse, keep and follow")),
        }
    }
}

/// What a person has decided about what an earlier cluster left behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decided {
    /// etcd starts where data is, and nowhere else.
    TakeBack,
    /// What is in the data directories is set aside, and a new cluster begins.
    Anew,
}

impl Decided {
    /// Reads the annotation.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        [Self::TakeBack, Self::Anew].into_iter().find(|it| it.to_string() == text)
    }
}

impl fmt::Display for Decided {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TakeBack => "take-back",
            Self::Anew => "anew",
        })
    }
}
