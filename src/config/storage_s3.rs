//! `[storages.NAME]` with `type = "s3"`.

use std::path::PathBuf;

use url::{Host, Url};

use super::{Secret, storage::check_rate};
use crate::{artifact::ArtifactName, byte_size::ByteSize};

crate::artifact::words! {
    /// A checksum that goes with every object and part, beside the signature's own.
    S3Checksum, "checksum" {
        Sha256 = "sha256",
        None = "none",
    }
}

super::section! {
    /// A bucket of an S3-compatible service.
    S3StorageConfig, "storages.NAME" {
        /// The bucket's name.
        ["AWS_S3_BUCKET_NAME"]
        bucket: String = String::new();
        /// The bucket's region. Default: `us-east-1` with an `endpoint`; without one it must be given.
        ["AWS_REGION"]
        region: Option<String> = None;
        /// The service's URL, such as `https://s3.example.org`. Default: Amazon S3 in the region.
        ["AWS_S3_ENDPOINT"]
        endpoint: Option<String> = None;
        /// Whether the bucket stands in the URL's path and not in its host name. Default: `true` with an `endpoint` and for buckets
        /// with a dot in their name, else `false`.
        path_style: Option<bool> = None;
        /// What every key in the bucket begins with. Give one when the bucket holds other things too. Default: none.
        prefix: String = String::new();
        /// The access key's id.
        ["AWS_S3_ACCESS_KEY"]
        access_key: Option<Secret> = None;
        /// A file that holds the access key's id.
        access_key_file: Option<PathBuf> = None;
        /// The secret access key.
        ["AWS_S3_SECRET_KEY"]
        secret_key: Option<Secret> = None;
        /// A file that holds the secret access key.
        secret_key_file: Option<PathBuf> = None;
        /// The session token of temporary keys. Holdfast does not renew them.
        session_token: Option<Secret> = None;
        /// A file that holds the session token.
        session_token_file: Option<PathBuf> = None;
        /// What one request carries when an object is stored in parts: 5 MiB to 512 MiB. An object has at most 10,000 parts, so that
        /// this also limits an artifact's size. An upload needs this much memory for each part in flight. Default: 8 MiB.
        part_size: ByteSize = ByteSize::mib(8);
        /// Parts of one upload that are under way at once, 1 to 32. Default: 4.
        parts_in_flight: usize = 4;
        /// Seconds without an answer, or without a byte moving, after which an operation has failed, 1 to 3600. Default: 60.
        timeout_seconds: u64 = 60;
        /// `sha256` or `none`: the checksum that the service is given beside the signature, which covers every byte anyway. `none` is for
        /// services that refuse the header. Default: `sha256`.
        checksum: S3Checksum = S3Checksum::Sha256;
        /// Largest rate of all uploads together, in bytes per second, such as `20 MiB`. Restores are never slowed. Default: none.
        max_rate: Option<ByteSize> = None;
        /// Whether an `http://` endpoint on another machine is allowed. The secret key is never sent, but who listens can read and
        /// alter what is not encrypted. Default: `false`; on this machine itself HTTP is always allowed.
        allow_http: bool = false;
    }
}

/// Smallest part but for the last. Source: docs.aws.amazon.com/AmazonS3/latest/userguide/qfacts.html.
const LEAST_PART: ByteSize = ByteSize::mib(5);
const MOST_PART: ByteSize = ByteSize::mib(512);

impl S3StorageConfig {
    /// What is wrong with it, in words that hold no secret.
    pub fn check(&self) -> Result<(), String> {
        let word = |text: &str, most: usize| {
            (1..=most).contains(&text.len())
                && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
        };
        if !word(&self.bucket, 255) {
            return Err("bucket is not a bucket's name: use 1 to 255 letters, digits, '-', '.' or '_'".to_owned());
        }
        match &self.region {
            Some(region) if !word(region, 64) => return Err("region is not a region's name".to_owned()),
            None if self.endpoint.is_none() => return Err("region is missing: set it, or AWS_REGION".to_owned()),
            _ => {}
        }
        self.endpoint_url()?;
        if !self.prefix.is_empty() && self.prefix.parse::<ArtifactName>().is_err() {
            return Err("prefix is not valid: write it like team/backups, without a slash at either end".to_owned());
        }
        for (secret, name, variable) in [
            (&self.access_key, "access_key", "AWS_S3_ACCESS_KEY"),
            (&self.secret_key, "secret_key", "AWS_S3_SECRET_KEY"),
        ] {
            if secret.as_ref().is_none_or(|secret| secret.expose().is_empty()) {
                return Err(format!("{name} is missing: set it, {name}_file or {variable}"));
            }
        }
        // A control character would end the header that carries it.
        let header_safe = |secret: &Secret| secret.expose().bytes().all(|b| b.is_ascii_graphic());
        for (secret, name) in
            [(&self.access_key, "access_key"), (&self.secret_key, "secret_key"), (&self.session_token, "session_token")]
        {
            if !secret.as_ref().is_none_or(header_safe) {
                return Err(format!("{name} holds a character that no key has, such as a space or a line break"));
            }
        }
        for (name, value, low, high) in [
            ("part_size", self.part_size.0, LEAST_PART.0, MOST_PART.0),
            ("parts_in_flight", self.parts_in_flight as u64, 1, 32),
            ("timeout_seconds", self.timeout_seconds, 1, 3_600),
        ] {
            if !(low..=high).contains(&value) {
                return Err(format!("{name} is {value}: use {low} to {high}"));
            }
        }
        check_rate(self.max_rate)
    }

    /// The endpoint as a URL: `http` or `https`, and neither user, query nor fragment.
    pub fn endpoint_url(&self) -> Result<Option<Url>, String> {
        let Some(text) = &self.endpoint else { return Ok(None) };
        // Not repeated: somebody may have put a password there.
        let url: Url = text.parse().map_err(|_| "endpoint is not a URL: write it like https://s3.example.org")?;
        let is_plain = url.username().is_empty() && url.password().is_none() && url.query().is_none();
        if !matches!(url.scheme(), "http" | "https") || url.host().is_none() || !is_plain || url.fragment().is_some() {
            return Err(
                "endpoint is not usable: write it like https://s3.example.org, without user, password and query".into(),
            );
        }
        let is_loopback = match url.host() {
            Some(Host::Domain(domain)) => domain == "localhost" || domain.ends_with(".localhost"),
            Some(Host::Ipv4(address)) => address.is_loopback(),
            Some(Host::Ipv6(address)) => address.is_loopback(),
            None => false,
        };
        if url.scheme() == "http" && !is_loopback && !self.allow_http {
            return Err("endpoint is http:// on another machine: use https://, or set allow_http = true".to_owned());
        }
        Ok(Some(url))
    }

    /// The region that requests are signed for.
    pub fn signing_region(&self) -> &str {
        self.region.as_deref().unwrap_or("us-east-1")
    }

    /// Where the bucket is: its URL without a slash at the end, and whether the bucket's name is in the host.
    pub fn bucket_url(&self) -> Result<(String, bool), String> {
        let (endpoint, bucket, region) = (self.endpoint_url()?, &self.bucket, self.signing_region());
        let in_host = !self.path_style.unwrap_or(endpoint.is_some() || bucket.contains('.'));
        let base = match endpoint {
            None => format!("https://s3.{region}.amazonaws.com"),
            Some(url) => url.as_str().trim_end_matches('/').to_owned(),
        };
        Ok(match base.split_once("://") {
            Some((scheme, rest)) if in_host => (format!("{scheme}://{bucket}.{rest}"), true),
            _ => (format!("{base}/{bucket}"), false),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> S3StorageConfig {
        S3StorageConfig {
            bucket: "b".into(),
            region: Some("eu-central-1".into()),
            access_key: Some(Secret::new("AKIA")),
            secret_key: Some(Secret::new("canary")),
            ..S3StorageConfig::default()
        }
    }

    #[test]
    fn the_bucket_is_in_the_host_or_in_the_path() {
        let url = |change: fn(&mut S3StorageConfig)| {
            let mut config = good();
            change(&mut config);
            config.check().unwrap();
            config.bucket_url().unwrap().0
        };
        assert_eq!(url(|_| {}), "https://b.s3.eu-central-1.amazonaws.com");
        assert_eq!(url(|c| c.bucket = "a.b".into()), "https://s3.eu-central-1.amazonaws.com/a.b");
        assert_eq!(url(|c| c.path_style = Some(true)), "https://s3.eu-central-1.amazonaws.com/b");
        assert_eq!(url(|c| c.endpoint = Some("https://s3.example.org/".into())), "https://s3.example.org/b");
        assert_eq!(url(|c| c.endpoint = Some("http://[::1]:9000".into())), "http://[::1]:9000/b");
        assert_eq!(
            url(|c| (c.endpoint, c.path_style) = (Some("https://s3.example.org:444".into()), Some(false))),
            "https://b.s3.example.org:444"
        );
    }

    #[test]
    fn mistakes_are_named_and_nothing_secret_is_repeated() {
        type Change = fn(&mut S3StorageConfig);
        let cases: [(Change, &str); 14] = [
            (|c| c.bucket.clear(), "bucket"),
            (|c| c.bucket = "a/b".into(), "bucket"),
            (|c| c.region = None, "AWS_REGION"),
            (|c| c.region = Some("eu/x".into()), "region"),
            (|c| c.endpoint = Some("https://u:canary@h".into()), "without user"),
            (|c| c.endpoint = Some("canary".into()), "not a URL"),
            (|c| c.endpoint = Some("ftp://canary".into()), "endpoint"),
            (|c| c.endpoint = Some("http://10.0.0.1:9000".into()), "allow_http"),
            (|c| c.prefix = "/canary".into(), "prefix"),
            (|c| c.prefix = "a/../canary".into(), "prefix"),
            (|c| c.secret_key = None, "AWS_S3_SECRET_KEY"),
            (|c| c.secret_key = Some(Secret::new("can ary")), "secret_key"),
            (|c| c.part_size = ByteSize::mib(4), "part_size"),
            (|c| c.timeout_seconds = 0, "timeout_seconds"),
        ];
        for (change, expected) in cases {
            let mut config = good();
            change(&mut config);
            let error = config.check().unwrap_err();
            assert!(error.contains(expected) && !error.contains("canary"), "{error}");
        }
        assert!(!format!("{:?}", good()).contains("canary"));
        assert!(!serde_json::to_string(&good()).unwrap().contains("canary"));
    }

    #[test]
    fn plain_http_is_for_this_machine_unless_it_is_allowed() {
        for endpoint in ["http://127.0.0.1:9000", "http://localhost", "http://[::1]:1"] {
            S3StorageConfig { endpoint: Some(endpoint.into()), ..good() }.check().unwrap();
        }
        S3StorageConfig { endpoint: Some("http://minio:9000".into()), allow_http: true, ..good() }.check().unwrap();
    }
}
