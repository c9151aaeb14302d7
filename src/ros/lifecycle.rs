//! The states of a managed node (ROS 2 design, "Managed nodes"; ids of `lifecycle_msgs`). r2r has none of it.

/// States a node rests in, and those it passes through while a transition works.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Unconfigured,
    Inactive,
    Active,
    Finalized,
    Configuring,
    CleaningUp,
    ShuttingDown,
    Activating,
    Deactivating,
}

impl State {
    pub(super) const ALL: [Self; 9] = [
        Self::Unconfigured,
        Self::Inactive,
        Self::Active,
        Self::Finalized,
        Self::Configuring,
        Self::CleaningUp,
        Self::ShuttingDown,
        Self::Activating,
        Self::Deactivating,
    ];

    pub(super) fn id(self) -> u8 {
        match self {
            Self::Unconfigured => 1,
            Self::Inactive => 2,
            Self::Active => 3,
            Self::Finalized => 4,
            Self::Configuring => 10,
            Self::CleaningUp => 11,
            Self::ShuttingDown => 12,
            Self::Activating => 13,
            Self::Deactivating => 14,
        }
    }

    pub(super) fn label(self) -> &'static str {
        match self {
            Self::Unconfigured => "unconfigured",
            Self::Inactive => "inactive",
            Self::Active => "active",
            Self::Finalized => "finalized",
            Self::Configuring => "configuring",
            Self::CleaningUp => "cleaningup",
            Self::ShuttingDown => "shuttingdown",
            Self::Activating => "activating",
            Self::Deactivating => "deactivating",
        }
    }
}

/// What can be asked of the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Transition {
    Configure,
    Cleanup,
    Activate,
    Deactivate,
    ShutdownUnconfigured,
    ShutdownInactive,
    ShutdownActive,
}

impl Transition {
    pub(super) const ALL: [Self; 7] = [
        Self::Configure,
        Self::Cleanup,
        Self::Activate,
        Self::Deactivate,
        Self::ShutdownUnconfigured,
        Self::ShutdownInactive,
        Self::ShutdownActive,
    ];

    pub(super) fn id(self) -> u8 {
        match self {
            Self::Configure => 1,
            Self::Cleanup => 2,
            Self::Activate => 3,
            Self::Deactivate => 4,
            Self::ShutdownUnconfigured => 5,
            Self::ShutdownInactive => 6,
            Self::ShutdownActive => 7,
        }
    }

    pub(super) fn label(self) -> &'static str {
        match self {
            Self::Configure => "configure",
            Self::Cleanup => "cleanup",
            Self::Activate => "activate",
            Self::Deactivate => "deactivate",
            Self::ShutdownUnconfigured | Self::ShutdownInactive | Self::ShutdownActive => "shutdown",
        }
    }

    /// State it starts from, state while it works, state after it.
    pub(super) fn path(self) -> (State, State, State) {
        match self {
            Self::Configure => (State::Unconfigured, State::Configuring, State::Inactive),
            Self::Cleanup => (State::Inactive, State::CleaningUp, State::Unconfigured),
            Self::Activate => (State::Inactive, State::Activating, State::Active),
            Self::Deactivate => (State::Active, State::Deactivating, State::Inactive),
            Self::ShutdownUnconfigured => (State::Unconfigured, State::ShuttingDown, State::Finalized),
            Self::ShutdownInactive => (State::Inactive, State::ShuttingDown, State::Finalized),
            Self::ShutdownActive => (State::Active, State::ShuttingDown, State::Finalized),
        }
    }

    /// Id of the transition out of the working state, such as `TRANSITION_ON_CONFIGURE_SUCCESS`.
    pub(super) fn result_id(self, success: bool) -> u8 {
        let family = match self {
            Self::Configure => 10,
            Self::Cleanup => 20,
            Self::Activate => 30,
            Self::Deactivate => 40,
            Self::ShutdownUnconfigured | Self::ShutdownInactive | Self::ShutdownActive => 50,
        };
        family + u8::from(!success)
    }

    /// What a request means in a state: by id, or by label where the id is 0. The error is a sentence for the log.
    pub(super) fn requested(id: u8, label: &str, state: State) -> Result<Self, String> {
        let named = |transition: &Self| {
            if id == 0 || label == "shutdown" { transition.label() == label } else { transition.id() == id }
        };
        let possible: Vec<Self> = Self::from_state(state).collect();
        possible.iter().copied().find(named).ok_or_else(|| {
            let known =
                Self::ALL.iter().find(|transition| named(transition)).map_or("unknown", |t| t.label());
            let labels: Vec<&str> = possible.iter().map(|transition| transition.label()).collect();
            let next = if labels.is_empty() { "nothing".to_owned() } else { labels.join(" or ") };
            format!(
                "transition {known} (id {id}, label `{label}`) is not possible while {}: {next} is",
                state.label()
            )
        })
    }

    /// What is possible in a state.
    pub(super) fn from_state(state: State) -> impl Iterator<Item = Self> {
        Self::ALL.into_iter().filter(move |transition| transition.path().0 == state)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_understood_by_id_and_by_label() {
        assert_eq!(Transition::requested(1, "", State::Unconfigured), Ok(Transition::Configure));
        assert_eq!(Transition::requested(0, "activate", State::Inactive), Ok(Transition::Activate));
        assert_eq!(Transition::requested(0, "shutdown", State::Active), Ok(Transition::ShutdownActive));
        assert_eq!(Transition::requested(7, "", State::Active), Ok(Transition::ShutdownActive));
    }

    #[test]
    fn what_is_not_possible_says_what_is() {
        let why = Transition::requested(3, "", State::Unconfigured).unwrap_err();
        assert!(
            why.contains("activate") && why.contains("unconfigured") && why.contains("configure or shutdown")
        );
        assert!(Transition::requested(1, "", State::Configuring).unwrap_err().contains("nothing is"));
        assert!(Transition::requested(99, "", State::Active).unwrap_err().contains("unknown"));
    }

    #[test]
    fn every_state_but_the_last_can_be_left_and_ids_differ() {
        for state in [State::Unconfigured, State::Inactive, State::Active] {
            assert!(Transition::from_state(state).any(|t| t.path().2 == State::Finalized), "{state:?}");
        }
        assert_eq!(Transition::from_state(State::Finalized).count(), 0);
        let mut ids: Vec<u8> = State::ALL.iter().map(|state| state.id()).collect();
        ids.dedup();
        assert_eq!(ids.len(), State::ALL.len());
        assert_eq!(Transition::Deactivate.result_id(false), 41);
    }
}
