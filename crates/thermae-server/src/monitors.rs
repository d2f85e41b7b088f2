//! Who is shown every command.

use crate::attention::{Attention, COMMANDS};
use crate::clients::Client;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

/// Clients that sent MONITOR. Commands are shown to them one after the other, under a lock that is only taken while there are such clients.
#[derive(Debug, Default)]
pub struct Monitors(Mutex<BTreeMap<u64, Arc<Client>>>);

impl Monitors {
    /// One more.
    pub fn add(&self, client: &Arc<Client>, attention: &Attention) {
        let mut monitors = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        monitors.insert(client.id, Arc::clone(client));
        attention.set(COMMANDS, true);
    }

    /// One that was, or was not, is none any more.
    pub fn remove(&self, client: &Client, attention: &Attention) {
        let mut monitors = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        monitors.remove(&client.id);
        attention.set(COMMANDS, !monitors.is_empty());
    }

    /// Calls `show` with each.
    pub fn each(&self, show: impl FnMut(&Arc<Client>)) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).values().for_each(show);
    }
}
