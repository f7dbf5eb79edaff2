//! How a bucket is named and opened.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

use object_store::aws::AmazonS3Builder;
use object_store::{ClientOptions, RetryConfig};

use super::transport::Connector;
use super::{Bucket, FolderBucket, ObjectBucket, check_name};
use crate::http::HttpTransport;
use crate::registry::Secrets;
use crate::{Error, ErrorKind, Fault, Result, SystemClock};

/// Where to publish: a folder, or a bucket as `s3://BUCKET` or `s3://BUCKET/PREFIX`.
///
/// ```
/// use albedo::publish::Place;
///
/// # fn main() -> albedo::Result<()> {
/// let place: Place = "s3://duels/site".parse()?;
/// assert_eq!(place, Place::S3 { bucket: "duels".into(), prefix: "site".into() });
/// assert_eq!("public".parse::<Place>()?, Place::Folder("public".into()));
/// assert!("s3://key:secret@duels".parse::<Place>().is_err());
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// A folder.
    Folder(PathBuf),
    /// A bucket of an S3-compatible server.
    S3 {
        /// The bucket.
        bucket: String,
        /// What every object's name begins with; empty for none.
        prefix: String,
    },
}

impl FromStr for Place {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        // The text is not repeated: somebody may have written a key into it.
        let invalid = |message: &str| {
            Err(Error::new(ErrorKind::ConfigInvalid, "read where to publish", message)
                .with_fault(Fault::Operator)
                .with_hint("give a folder, or `s3://BUCKET/PREFIX`"))
        };
        let Some(rest) = text.strip_prefix("s3://") else {
            return match text {
                "" => invalid("it is empty"),
                _ if text.contains("://") => {
                    invalid("it is neither a folder nor an address that begins with s3://")
                }
                _ => Ok(Self::Folder(text.into())),
            };
        };
        let (bucket, prefix) =
            rest.trim_end_matches('/').split_once('/').unwrap_or((rest.trim_end_matches('/'), ""));
        let named = (3..=63).contains(&bucket.len())
            && bucket
                .bytes()
                .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-.".contains(&byte));
        if !named || !(prefix.is_empty() || check_name(prefix).is_ok()) {
            return invalid("the bucket or the prefix has a name that S3 does not allow");
        }
        Ok(Self::S3 { bucket: bucket.into(), prefix: prefix.into() })
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Folder(folder) => write!(f, "{}", folder.display()),
            Self::S3 { bucket, prefix } if prefix.is_empty() => write!(f, "s3://{bucket}"),
            Self::S3 { bucket, prefix } => write!(f, "s3://{bucket}/{prefix}"),
        }
    }
}

/// The names under which the key of a bucket is looked up, as other programs have
/// them.
const KEY_ID: &str = "AWS_ACCESS_KEY_ID";
const KEY: &str = "AWS_SECRET_ACCESS_KEY";
const TOKEN: &str = "AWS_SESSION_TOKEN";

impl Place {
    /// Opens the bucket. The server of an S3 bucket is at `endpoint`, by default
    /// Amazon's of `region`; its key is looked up in `secrets` as `AWS_ACCESS_KEY_ID`
    /// and `AWS_SECRET_ACCESS_KEY`, and `AWS_SESSION_TOKEN` if there is one. Requests go
    /// through `transport`.
    ///
    /// # Errors
    /// The operator's: the folder cannot be made, there is no key, or the server is
    /// another machine that would be reached by plain HTTP.
    pub fn open(
        &self,
        endpoint: Option<&str>,
        region: &str,
        secrets: &dyn Secrets,
        transport: Arc<dyn HttpTransport>,
    ) -> Result<Arc<dyn Bucket>> {
        let Self::S3 { bucket, prefix } = self else {
            let Self::Folder(folder) = self else {
                return Err(Error::bug("open the bucket", "no such place"));
            };
            return Ok(Arc::new(FolderBucket::open(folder)?));
        };
        let plain = endpoint.is_some_and(|endpoint| endpoint.starts_with("http://"));
        if let Some(endpoint) = endpoint
            && !endpoint.starts_with("https://")
            && !(plain && is_loopback(endpoint))
        {
            let message = "the server's address does not begin with https://, and is not on this machine";
            return Err(Error::new(ErrorKind::ConfigInvalid, "open the bucket", message)
                .with_fault(Fault::Operator)
                .with("bucket", self)
                .with_hint("set `endpoint` to an address that begins with https://"));
        }
        let mut builder = AmazonS3Builder::new()
            .with_bucket_name(bucket)
            .with_region(region)
            .with_access_key_id(secrets.get(KEY_ID)?.expose())
            .with_secret_access_key(secrets.get(KEY)?.expose())
            .with_virtual_hosted_style_request(false)
            .with_client_options(ClientOptions::new().with_allow_http(plain))
            .with_allow_http(plain)
            // Trying again is the publisher's, which knows what the server asked for.
            .with_retry(RetryConfig { max_retries: 0, ..RetryConfig::default() })
            .with_http_connector(Connector::new(transport, Arc::new(SystemClock::default())));
        if let Ok(token) = secrets.get(TOKEN) {
            builder = builder.with_token(token.expose());
        }
        if let Some(endpoint) = endpoint {
            builder = builder.with_endpoint(endpoint.trim_end_matches('/'));
        }
        let store = builder.build().map_err(|_| {
            Error::new(
                ErrorKind::ConfigInvalid,
                "open the bucket",
                "the settings of the bucket do not fit together",
            )
            .with_fault(Fault::Operator)
            .with("bucket", self)
            .with_hint("check `endpoint` and `region`")
        })?;
        Ok(Arc::new(ObjectBucket::new(Arc::new(store), format!("s3://{bucket}"), prefix)))
    }
}

/// Whether `url` is on this machine.
fn is_loopback(url: &str) -> bool {
    let host = url.split_once("://").map_or(url, |(_, rest)| rest);
    let host = host.split(['/', '?', '#']).next().unwrap_or_default();
    let host = match host.strip_prefix('[') {
        Some(six) => six.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    host == "localhost" || host.parse().is_ok_and(|address: std::net::IpAddr| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::{HttpRequest, HttpResponse};
    use crate::registry::Secret;
    use crate::{CallContext, ErrorKind};

    #[derive(Debug)]
    struct Nothing;

    #[async_trait::async_trait]
    impl HttpTransport for Nothing {
        async fn send(&self, _: HttpRequest, _: &CallContext) -> Result<HttpResponse> {
            Err(Error::new(ErrorKind::Unavailable, "connect", "nobody is there"))
        }
    }

    #[derive(Debug)]
    struct Known;

    impl Secrets for Known {
        fn get(&self, name: &str) -> Result<Secret> {
            match name {
                TOKEN => Err(Error::new(ErrorKind::NotFound, "read a secret", "none")),
                _ => Ok(Secret::new("hush-hush")),
            }
        }
    }

    #[test]
    fn places_are_read_as_they_are_written() {
        for text in ["s3://duels", "s3://duels/site/v1", "public", "/var/www"] {
            assert_eq!(text.parse::<Place>().expect("a place").to_string(), text);
        }
        for text in
            ["", "s3://", "s3://a", "s3://Duels", "s3://duels/../x", "s3://hush:hush@duels", "gs://duels"]
        {
            let error = text.parse::<Place>().expect_err("no place");
            assert!(
                error.kind() == ErrorKind::ConfigInvalid && !error.to_string().contains("hush"),
                "{error}"
            );
        }
    }

    #[tokio::test]
    async fn no_error_of_a_bucket_holds_its_key() {
        let place: Place = "s3://duels".parse().expect("a place");
        let open = |endpoint| place.open(Some(endpoint), "auto", &Known, Arc::new(Nothing));
        let plain = open("http://example.com").expect_err("everybody could read it");
        assert!(plain.to_string().contains("https://"), "{plain}");
        for loopback in ["http://127.0.0.1:9", "http://localhost:9/", "http://[::1]:9"] {
            let bucket = open(loopback).expect("opens");
            let error =
                bucket.read("index.json", 10, &CallContext::new()).await.expect_err("nobody is there");
            let text = format!("{error} {error:?} {bucket:?}");
            assert!(text.contains("nobody is there") && !text.contains("hush-hush"), "{text}");
        }
    }
}
