//! How commands read values, and what they make of them.
//!
//! A value that Python stored is read as the bytes it is stored as, whatever they mean there; what a command stores is bytes again. So a `str`
//! that is appended to is `bytes` afterwards, which a reader sees, instead of text that may be none.

use crate::failure::Result;
use crate::redis::call::Call;
use crate::redis::reply::Reply;
use crate::space::Space;
use thermae_core::{Current, Update};

/// Encoding of plain bytes.
pub const ENCODING_BYTES: u8 = 0;

/// Values up to this length are copied to be looked at: that takes less time than pinning them.
const COPIED_BYTES_MAX: u64 = 4096;

/// Replies with the value of a key: copied once, from where it is stored to where the reply is.
#[inline]
pub fn reply_value(call: &mut Call<'_, '_>, key: &[u8]) -> Result<()> {
    if !call.space.is_plain() {
        let found = call.space.get(key)?;
        if found.is_none() {
            call.space.events.note_miss(key);
        }
        reply_bytes(&mut call.reply, found.as_ref().map(|(_, value)| value.as_slice()));
        return Ok(());
    }
    let start = call.reply.position();
    let reply = &mut call.reply;
    let found = call.space.store().get_into(key, |meta| {
        // May be asked again, when the value moved under the reader.
        reply.take_back(start);
        reply.bulk_space(meta.value_len as usize)
    })?;
    match found {
        // SAFETY: the store wrote as many bytes as it asked for last.
        Some(meta) => unsafe { call.reply.end_bulk(meta.value_len as usize) },
        None => {
            call.reply.take_back(start);
            call.reply.null();
            call.space.events.note_miss(key);
        }
    }
    Ok(())
}

/// Replies with bytes, or that there are none.
pub fn reply_bytes(reply: &mut Reply<'_>, bytes: Option<&[u8]>) {
    match bytes {
        Some(bytes) => reply.bulk(bytes),
        None => reply.null(),
    }
}

/// Shows the value of a key to `look`; a long one where it lies. `None` where there is no such key.
///
/// # Errors
/// Those of the store.
pub fn look_at<T>(space: &mut Space<'_>, key: &[u8], look: impl FnOnce(&[u8]) -> T) -> Result<Option<T>> {
    if !space.is_plain() {
        let found = space.get(key)?;
        if found.is_none() {
            space.events.note_miss(key);
        }
        return Ok(found.map(|(_, value)| look(&value)));
    }
    let mut copy: Vec<u8> = Vec::new();
    let found = space.store().get_into(key, |meta| {
        if meta.value_len > COPIED_BYTES_MAX {
            return std::ptr::null_mut();
        }
        copy.resize(meta.value_len as usize, 0);
        copy.as_mut_ptr()
    })?;
    match found {
        None => {
            space.events.note_miss(key);
            Ok(None)
        }
        Some(meta) if meta.value_len <= COPIED_BYTES_MAX => Ok(Some(look(&copy))),
        Some(_) => Ok(space.store().view(key)?.map(|view| look(&view))),
    }
}

/// What a change of a value leaves as it is.
#[derive(Debug, Clone, Copy, Default)]
pub struct Kept {
    expires_at_ms: u64,
    flags: u32,
}

/// A value as a command goes on from it: its bytes and what is kept beside them. A missing one is empty and never expires.
pub fn parts(current: Option<Current<'_>>) -> (&[u8], Kept) {
    current.map_or((&[], Kept::default()), |Current { meta, value }| {
        (value, Kept { expires_at_ms: meta.expires_at_ms, flags: meta.flags })
    })
}

/// Makes bytes of a key.
pub fn set_bytes(value: Vec<u8>, kept: Kept) -> Update {
    set_encoded(value, ENCODING_BYTES, kept)
}

/// The same, encoded in this way.
pub fn set_encoded(value: Vec<u8>, encoding: u8, Kept { expires_at_ms, flags }: Kept) -> Update {
    Update::Set { value, encoding, expires_at_ms, flags }
}
