//! The failpoints, by name: what a test can stop the run at. The tests include this file, so that
//! there is one list.

/// A boundary between two steps, or within one, at which a run may be killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failpoint {
    /// The Lease is ours, nothing is done yet.
    LeaseTaken,
    /// The volume is made; the claim was not yet woken.
    VolumeMade,
    /// The claim was woken.
    ClaimWoken,
    /// The volume is tied to its node.
    VolumePinned,
    /// `member add` is about to be sent, but for a last look at the Lease.
    BeforeAdd,
    /// etcd has the member, nobody wrote it down.
    MemberAdded,
    /// The Lease's copy of the record has it as joining, the record does not.
    JoiningCopied,
    /// The record has it as joining.
    JoiningRecorded,
    /// Its pod may start.
    Permitted,
    /// It serves; the Lease's copy of the record says so, the record does not.
    MemberCopied,
    /// The record has it as a member.
    MemberRecorded,
    /// The joining pod is deleted.
    PodSwapped,
    /// `member promote` is about to be sent, but for a last look at the Lease.
    BeforePromote,
    /// It is a voting member.
    Promoted,
    /// All is as desired; the keys are not yet compared.
    BeforeValidation,
    /// `member remove` is about to be sent, but for a last look at the Lease.
    BeforeTakingBack,
    /// The newcomer is out of etcd, the record still has it.
    TakenBack,
    /// The Lease's copy of the record does not have it any more, the record does.
    GoneCopied,
    /// The record does not have it any more.
    GoneRecorded,
    /// The Lease's copy of the record has a member as leaving, the record does not.
    LeavingCopied,
    /// The record has it as leaving.
    LeavingRecorded,
    /// `move-leader` is about to be sent, but for a last look at the Lease.
    BeforeMovingLeader,
    /// Another member leads.
    LeaderMoved,
    /// `member remove` of a member that is not wanted any more is about to be sent, but for a last
    /// look at the Lease.
    BeforeRemove,
    /// It is out of etcd, its pod is there.
    MemberRemoved,
    /// Its pod is deleted.
    PodRemoved,
    /// A pod that cannot join as it is was deleted.
    PodRenewed,
}

impl Failpoint {
    /// Those that every join of a member with a volume of ours passes, in their order.
    pub const JOIN: [Self; 15] = [
        Self::LeaseTaken,
        Self::VolumeMade,
        Self::ClaimWoken,
        Self::VolumePinned,
        Self::BeforeAdd,
        Self::MemberAdded,
        Self::JoiningCopied,
        Self::JoiningRecorded,
        Self::Permitted,
        Self::MemberCopied,
        Self::MemberRecorded,
        Self::PodSwapped,
        Self::BeforePromote,
        Self::Promoted,
        Self::BeforeValidation,
    ];
    /// Those that a join passes which is taken back, in their order.
    pub const UNDO: [Self; 4] = [Self::BeforeTakingBack, Self::TakenBack, Self::GoneCopied, Self::GoneRecorded];
    /// Those that every member passes which leads and is not wanted any more, in their order.
    pub const LEAVE: [Self; 11] = [
        Self::LeaseTaken,
        Self::LeavingCopied,
        Self::LeavingRecorded,
        Self::BeforeMovingLeader,
        Self::LeaderMoved,
        Self::BeforeRemove,
        Self::MemberRemoved,
        Self::PodRemoved,
        Self::GoneCopied,
        Self::GoneRecorded,
        Self::BeforeValidation,
    ];
    /// Where a pod is made again.
    pub const RENEW: [Self; 1] = [Self::PodRenewed];

    /// Whether only a volume that the Job makes has it.
    pub fn is_about_volumes(self) -> bool {
        matches!(self, Self::VolumeMade | Self::ClaimWoken | Self::VolumePinned)
    }

    /// Its name: in the environment of the Job that stops there, and in the Lease's annotation.
    pub fn name(self) -> &'static str {
        match self {
            Self::LeaseTaken => "lease-taken",
            Self::VolumeMade => "volume-made",
            Self::ClaimWoken => "claim-woken",
            Self::VolumePinned => "volume-pinned",
            Self::BeforeAdd => "before-add",
            Self::MemberAdded => "member-added",
            Self::JoiningCopied => "joining-copied",
            Self::JoiningRecorded => "joining-recorded",
            Self::Permitted => "permitted",
            Self::MemberCopied => "member-copied",
            Self::MemberRecorded => "member-recorded",
            Self::PodSwapped => "pod-swapped",
            Self::BeforePromote => "before-promote",
            Self::Promoted => "promoted",
            Self::BeforeValidation => "before-validation",
            Self::BeforeTakingBack => "before-taking-back",
            Self::TakenBack => "taken-back",
            Self::GoneCopied => "gone-copied",
            Self::GoneRecorded => "gone-recorded",
            Self::LeavingCopied => "leaving-copied",
            Self::LeavingRecorded => "leaving-recorded",
            Self::BeforeMovingLeader => "before-moving-leader",
            Self::LeaderMoved => "leader-moved",
            Self::BeforeRemove => "before-remove",
            Self::MemberRemoved => "member-removed",
            Self::PodRemoved => "pod-removed",
            Self::PodRenewed => "pod-renewed",
        }
    }
}

/// Names, separated by commas: the failpoints at which a Job stops, each once.
pub const VARIABLE: &str = "ETCD_SCALER_FAILPOINT";
/// The annotation of the Lease in which a stopped run says where it is and who it is: `NAME POD`.
/// It goes on when the value becomes another one.
pub const ANNOTATION: &str = "etcd-scaler.io/failpoint";
