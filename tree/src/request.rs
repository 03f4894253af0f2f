//! Checks of the request that begins a copy. `sender` and `receiver` call them before anything else, `validate` before a request is sent.

use podbridge_proto::v1::TreeOpen;

use crate::error::Error;
use crate::filter::Filters;
use crate::wire::PROTOCOL_VERSION;

/// Checks the version of a request and returns its parsed filters. Both sides call it first.
pub(crate) fn check(open: &TreeOpen) -> Result<Filters, Error> {
    if open.version != PROTOCOL_VERSION {
        return Err(Error::Local(format!(
            "the other side speaks version {} of the tree protocol, this side version {PROTOCOL_VERSION}; \
             use the same release on both sides",
            open.version
        )));
    }
    Filters::new(&open.filters).map_err(Error::Local)
}
