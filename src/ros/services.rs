//! The lifecycle services and their messages (`lifecycle_msgs`), written by hand since r2r has no managed nodes.

use futures::stream::BoxStream;
use futures::{FutureExt, Stream, StreamExt};
use r2r::lifecycle_msgs::msg;
use r2r::lifecycle_msgs::srv::{ChangeState, GetAvailableStates, GetAvailableTransitions, GetState};
use r2r::{Node, Publisher, QosProfile, ServiceRequest};

use super::lifecycle::{State, Transition};

/// A request to change the state, to be answered when that is done.
pub(super) type ChangeRequest = ServiceRequest<ChangeState::Service>;

/// `~/change_state`, `~/get_state`, `~/get_available_states`, `~/get_available_transitions`,
/// `~/get_transition_graph`, and the topic `~/transition_event`.
pub(super) struct LifecycleServices {
    change: BoxStream<'static, ChangeRequest>,
    get: BoxStream<'static, ServiceRequest<GetState::Service>>,
    states: BoxStream<'static, ServiceRequest<GetAvailableStates::Service>>,
    transitions: BoxStream<'static, ServiceRequest<GetAvailableTransitions::Service>>,
    graph: BoxStream<'static, ServiceRequest<GetAvailableTransitions::Service>>,
    events: Publisher<msg::TransitionEvent>,
}

impl LifecycleServices {
    pub(super) fn create(node: &mut Node) -> r2r::Result<Self> {
        let qos = QosProfile::services_default;
        Ok(Self {
            change: node.create_service("~/change_state", qos())?.boxed(),
            get: node.create_service("~/get_state", qos())?.boxed(),
            states: node.create_service("~/get_available_states", qos())?.boxed(),
            transitions: node.create_service("~/get_available_transitions", qos())?.boxed(),
            graph: node.create_service("~/get_transition_graph", qos())?.boxed(),
            events: node.create_publisher("~/transition_event", QosProfile::default().keep_last(10))?,
        })
    }

    /// Answers what only asks, and hands out what wants a change.
    pub(super) fn serve(&mut self, state: State) -> r2r::Result<Option<ChangeRequest>> {
        while let Some(request) = next(&mut self.get) {
            request.respond(GetState::Response { current_state: state_message(state) })?;
        }
        while let Some(request) = next(&mut self.states) {
            let available_states = State::ALL.into_iter().map(state_message).collect();
            request.respond(GetAvailableStates::Response { available_states })?;
        }
        while let Some(request) = next(&mut self.transitions) {
            let available_transitions = Transition::from_state(state).map(description).collect();
            request.respond(GetAvailableTransitions::Response { available_transitions })?;
        }
        while let Some(request) = next(&mut self.graph) {
            let available_transitions = Transition::ALL.into_iter().map(description).collect();
            request.respond(GetAvailableTransitions::Response { available_transitions })?;
        }
        Ok(next(&mut self.change))
    }

    /// Announces a step from one state to another.
    pub(super) fn announce(
        &self,
        id: u8,
        label: &str,
        from: State,
        to: State,
        now_ns: u64,
    ) -> r2r::Result<()> {
        self.events.publish(&msg::TransitionEvent {
            timestamp: now_ns,
            transition: msg::Transition { id, label: label.to_owned() },
            start_state: state_message(from),
            goal_state: state_message(to),
        })
    }
}

/// The next item of a stream, if it is there.
pub(super) fn next<T>(stream: &mut (impl Stream<Item = T> + Unpin)) -> Option<T> {
    stream.next().now_or_never().flatten()
}

fn state_message(state: State) -> msg::State {
    msg::State { id: state.id(), label: state.label().to_owned() }
}

fn description(transition: Transition) -> msg::TransitionDescription {
    let (from, _, to) = transition.path();
    msg::TransitionDescription {
        transition: msg::Transition { id: transition.id(), label: transition.label().to_owned() },
        start_state: state_message(from),
        goal_state: state_message(to),
    }
}
