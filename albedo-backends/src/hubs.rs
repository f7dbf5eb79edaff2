//! Hubs of models.
//!
//! | hub | feature | reference |
//! | --- | --- | --- |
//! | [`folder`] | | `folder:owner/model@sha256:…`: a local mirror |
//! | [`oci`] | `hubs` | `owner/model@sha256:…`: a container registry |
//! | [`hf`] | `hubs` | `hf:owner/model@…`: Hugging Face, pinned to a commit |

#[cfg(feature = "hubs")]
mod files;
pub mod folder;
#[cfg(feature = "hubs")]
pub mod hf;
#[cfg(feature = "hubs")]
pub mod oci;
#[cfg(feature = "hubs")]
mod remote;
#[cfg(any(test, feature = "scripted-server"))]
pub mod scripted;
