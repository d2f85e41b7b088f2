//! Where all ends that clients are told of without having asked for it just then.

use crate::events::Events;
use crate::shared::Shared;

/// Tells those who want to know what others did to keys, or the store by itself: nothing that a command of this server did.
pub fn tell_foreign(_shared: &Shared, _events: &Events) {}

/// Tells those who keep copies of values that any of these may be outdated: others did so much that it can't be told one by one.
pub fn tell_overrun(_shared: &Shared) {}
