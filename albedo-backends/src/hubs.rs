//! Hubs of models.
//!
//! | hub | reference |
//! | --- | --- |
//! | [`folder`] | `folder:owner/model@sha256:…`: a local mirror |

pub mod folder;
