//! Which certificates are trusted, and by which cryptography.

use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;

use albedo_core::{Error, ErrorKind, Fault, Reach, Result, Retry};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use rustls_platform_verifier::Verifier;

const PREPARE: &str = "prepare TLS";

/// Whose certificates a client trusts.
#[derive(Clone, Default)]
pub enum Roots {
    /// The system's authorities.
    #[default]
    System,
    /// These alone, as PEM.
    Only(Arc<[u8]>),
}

impl fmt::Debug for Roots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::System => "the system's authorities",
            Self::Only(_) => "authorities of its own",
        })
    }
}

impl Roots {
    /// The settings of TLS.
    ///
    /// # Errors
    /// The operator's: there are no certificates, or they are unusable.
    pub(super) fn config(&self) -> Result<ClientConfig> {
        let unusable = |message: String| {
            Error::new(ErrorKind::Unavailable, PREPARE, message)
                .with_fault(Fault::Operator)
                .with_reach(Reach::Duel)
                .with_retry(Retry::Never)
                .with_hint("install the system's root certificates (ca-certificates), or set `SSL_CERT_FILE`")
        };
        match self {
            Self::System => {
                let verifier = Verifier::new(provider()).map_err(|error| unusable(error.to_string()))?;
                let builder = builder()?.dangerous();
                Ok(builder.with_custom_certificate_verifier(Arc::new(verifier)).with_no_client_auth())
            }
            Self::Only(pem) => {
                let mut store = RootCertStore::empty();
                for certificate in CertificateDer::pem_slice_iter(pem) {
                    let certificate = certificate.map_err(|error| unusable(error.to_string()))?;
                    store.add(certificate).map_err(|error| unusable(error.to_string()))?;
                }
                Ok(builder()?.with_root_certificates(store).with_no_client_auth())
            }
        }
    }

    /// The settings of a client that never uses TLS.
    pub(super) fn none() -> Result<ClientConfig> {
        Ok(builder()?.with_root_certificates(RootCertStore::empty()).with_no_client_auth())
    }
}

/// The cryptography that the process has installed, else ring, which is left
/// uninstalled: an embedder may still choose.
fn provider() -> Arc<CryptoProvider> {
    CryptoProvider::get_default()
        .map_or_else(|| Arc::new(rustls::crypto::ring::default_provider()), Arc::clone)
}

fn builder() -> Result<rustls::ConfigBuilder<ClientConfig, rustls::WantsVerifier>> {
    ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|error| Error::new(ErrorKind::ConfigInvalid, PREPARE, error.to_string()))
}

/// Whether `error` is that a certificate was refused.
pub(super) fn is_certificate(error: &reqwest::Error) -> bool {
    let mut cause: Option<&(dyn StdError + 'static)> = error.source();
    while let Some(error) = cause {
        // An I/O error's source is that of what it wraps.
        let inner = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        let tls = error.downcast_ref().or_else(|| inner?.downcast_ref::<rustls::Error>());
        if matches!(tls, Some(rustls::Error::InvalidCertificate(_))) {
            return true;
        }
        cause = error.source();
    }
    false
}
