//! What stands between this process and another that it wants to read.
//!
//! The kernel says no more than "not permitted". What it compares can be seen by everybody: users, groups, whom the
//! files in `/proc` belong to, capabilities, Yama's setting, labels. They are looked at in the kernel's own order
//! (`ptrace(2)`, "Ptrace access mode checking").

use core::fmt;

/// What bears on whether this process may read that one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Sight {
    /// The user and group that this process runs as.
    pub(super) own: (u32, u32),
    /// Whether this process has `CAP_SYS_PTRACE`.
    pub(super) may_trace: bool,
    /// The user that the process runs as, where `/proc` says.
    pub(super) user: Option<u32>,
    /// Its group.
    pub(super) group: Option<u32>,
    /// Whom its files in `/proc` belong to: root, where the process may not be looked into (not dumpable).
    pub(super) owner: Option<u32>,
    /// `kernel.yama.ptrace_scope`, where the kernel has Yama.
    pub(super) yama: Option<u32>,
    /// The label of a security module that confines it.
    pub(super) label: Option<String>,
    /// It runs in another user namespace, as far as that can be seen.
    pub(super) other_user_namespace: bool,
}

/// What is in the way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Obstacle {
    /// It is another user's.
    User { user: u32, own: u32 },
    /// This process is root, but may not look into the processes of others.
    RootWithoutCapability { user: u32 },
    /// It runs with another group.
    Group { group: u32, own: u32 },
    /// It may not be looked into by its own user.
    NotDumpable,
    /// Yama forbids it, with this setting.
    Yama(u32),
    /// A security module confines it, with this label.
    Confined(String),
    /// It runs in another user namespace.
    UserNamespace,
    /// Nothing of that can be seen.
    Unknown,
}

/// The setting of Yama that not even root is exempt from.
const NOBODY: u32 = 3;

impl Obstacle {
    /// The first that stands in the way.
    pub(super) fn of(sight: &Sight) -> Self {
        let (own, own_group) = sight.own;
        if !sight.may_trace {
            if let Some(user) = sight.user.filter(|user| *user != own) {
                return if own == 0 { Self::RootWithoutCapability { user } } else { Self::User { user, own } };
            }
            if let Some(group) = sight.group.filter(|group| *group != own_group) {
                return Self::Group { group, own: own_group };
            }
            if sight.owner == Some(0) && sight.user.is_some_and(|user| user != 0) {
                return Self::NotDumpable;
            }
        }
        if let Some(level) = sight.yama.filter(|level| *level >= if sight.may_trace { NOBODY } else { 1 }) {
            return Self::Yama(level);
        }
        match &sight.label {
            Some(label) => Self::Confined(label.clone()),
            None if sight.other_user_namespace => Self::UserNamespace,
            None => Self::Unknown,
        }
    }

    /// What to run, where one line does it.
    pub(super) fn advice(&self) -> Option<String> {
        match self {
            Self::User { user, .. } => Some(format!("sudo -u '#{user}' vgpu …, or sudo vgpu …")),
            Self::RootWithoutCapability { .. } => {
                Some("docker run --cap-add SYS_PTRACE …, or capabilities: add: [SYS_PTRACE] of the pod".to_owned())
            }
            Self::Group { group, .. } => Some(format!("sg '#{group}' -c 'vgpu …', or sudo vgpu …")),
            Self::NotDumpable => Some(format!("sudo vgpu …, or {CAPABILITY}")),
            Self::Yama(NOBODY) => Some("kernel.yama.ptrace_scope=3 stays until the host is booted again".to_owned()),
            Self::Yama(_) => Some(format!("sudo sysctl kernel.yama.ptrace_scope=0, or {CAPABILITY}")),
            Self::Confined(_) | Self::UserNamespace | Self::Unknown => None,
        }
    }
}

const CAPABILITY: &str = "sudo setcap cap_sys_ptrace=ep \"$(command -v vgpu)\"";

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::User { user, own } => {
                write!(f, "it belongs to user {user}, this is user {own}; run as user {user}, or as root")
            }
            Self::RootWithoutCapability { user } => write!(
                f,
                "it belongs to user {user}, and this is root without the capability CAP_SYS_PTRACE (in a container?): \
                 give it that, or run as user {user}"
            ),
            Self::Group { group, own } => write!(
                f,
                "it runs with group {group}, this process with {own}: both have to be the same (sg, newgrp), or run \
                 as root"
            ),
            Self::NotDumpable => f.write_str(
                "it has changed its user or was started with more rights than its user has, and may not be looked into \
                 (not dumpable); run as root",
            ),
            Self::Yama(NOBODY) => f.write_str(
                "Yama forbids it to everybody (kernel.yama.ptrace_scope is 3): boot the host with another value, or \
                 start the guest with shared memory",
            ),
            Self::Yama(level) => write!(
                f,
                "Yama forbids it (kernel.yama.ptrace_scope is {level}); run as root, give vgpu CAP_SYS_PTRACE, or set \
                 it to 0"
            ),
            Self::Confined(label) => write!(
                f,
                "it is confined as {label:?}: a security module (sVirt, AppArmor, SELinux) stands between; its log \
                 (journalctl -k) names the rule"
            ),
            Self::UserNamespace => f.write_str("it runs in another user namespace; run as root of the host"),
            Self::Unknown => f.write_str("run as its user, or as root of the host"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// User 1000 looks at a process of its own, and nothing is in the way.
    fn own() -> Sight {
        Sight {
            own: (1000, 100),
            may_trace: false,
            user: Some(1000),
            group: Some(100),
            owner: Some(1000),
            yama: Some(0),
            label: None,
            other_user_namespace: false,
        }
    }

    #[test]
    fn each_obstacle_is_told_from_the_others() {
        let stranger = Sight { user: Some(64055), owner: Some(64055), ..own() };
        let label = Some("libvirt-1234 (enforce)".to_owned());
        for (sight, obstacle, says) in [
            (own(), Obstacle::Unknown, "run as its user"),
            (stranger.clone(), Obstacle::User { user: 64055, own: 1000 }, "user 64055, this is user 1000"),
            // Yama is not what is in the way of a stranger.
            (Sight { yama: Some(1), ..stranger.clone() }, Obstacle::User { user: 64055, own: 1000 }, "as root"),
            (
                Sight { own: (0, 0), ..stranger.clone() },
                Obstacle::RootWithoutCapability { user: 64055 },
                "CAP_SYS_PTRACE",
            ),
            (Sight { group: Some(7), ..own() }, Obstacle::Group { group: 7, own: 100 }, "group 7"),
            (Sight { owner: Some(0), yama: Some(1), ..own() }, Obstacle::NotDumpable, "not dumpable"),
            (Sight { yama: Some(1), ..own() }, Obstacle::Yama(1), "ptrace_scope is 1"),
            (Sight { yama: None, ..own() }, Obstacle::Unknown, "run as its user"),
            (
                Sight { label, other_user_namespace: true, ..own() },
                Obstacle::Confined("libvirt-1234 (enforce)".to_owned()),
                "sVirt",
            ),
            (Sight { other_user_namespace: true, ..own() }, Obstacle::UserNamespace, "user namespace"),
            // Whoever has the capability is kept out by none of the first.
            (
                Sight { may_trace: true, yama: Some(2), group: Some(7), ..stranger.clone() },
                Obstacle::Unknown,
                "as root",
            ),
            (Sight { may_trace: true, yama: Some(3), ..stranger }, Obstacle::Yama(3), "to everybody"),
        ] {
            let found = Obstacle::of(&sight);
            assert_eq!(found, obstacle, "{sight:?}");
            assert!(found.to_string().contains(says), "{found}");
        }
    }

    #[test]
    fn advice_is_about_what_is_in_the_way() {
        let advice = |obstacle: Obstacle| obstacle.advice().unwrap_or_default();
        assert!(advice(Obstacle::Yama(1)).contains("kernel.yama.ptrace_scope=0"));
        assert!(!advice(Obstacle::User { user: 64055, own: 1000 }).contains("yama"));
        assert!(advice(Obstacle::User { user: 64055, own: 1000 }).contains("sudo -u '#64055'"));
        assert!(advice(Obstacle::RootWithoutCapability { user: 7 }).contains("SYS_PTRACE"));
        assert!(advice(Obstacle::NotDumpable).contains("cap_sys_ptrace"));
        assert_eq!(Obstacle::Unknown.advice(), None);
    }
}
