use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
};

use ipnet::IpNet;

super::section! {
    /// Where the API listens.
    ListenConfig, "listen" {
        /// Address and port. Port 0 takes a free one. Default: loopback only, port 3000.
        ["HOLDFAST_LISTEN"]
        address: SocketAddr = SocketAddr::from((Ipv4Addr::LOCALHOST, 3000));
        /// Largest request body, in bytes. Default: 1 MiB.
        max_body: crate::byte_size::ByteSize = crate::byte_size::ByteSize::mib(1);
        /// Networks (`10.0.0.0/8`) or addresses of proxies in front. For calls that come from these, the caller's address is the last one
        /// in `X-Forwarded-For` that is none of them. They may hold as many connections as they like, all others 64 for each address. Default:
        /// none, and the header is not looked at.
        trusted_proxies: Vec<String> = Vec::new();
    } with {
        /// The certificate, `[listen.tls]`.
        tls: TlsConfig;
    }
}

impl ListenConfig {
    /// The networks of `trusted_proxies`.
    ///
    /// # Errors
    /// Says in one line which one cannot be read.
    pub fn trusted_networks(&self) -> Result<Vec<IpNet>, String> {
        let network = |text: &String| {
            let address = || text.parse::<IpAddr>().map(IpNet::from);
            text.parse::<IpNet>().or_else(|_| address()).map_err(|_| {
                format!("listen.trusted_proxies: {text:?} is neither a network such as 10.0.0.0/8 nor an address")
            })
        };
        self.trusted_proxies.iter().map(network).collect()
    }
}

super::section! {
    /// TLS 1.3 and 1.2 on `listen.address`; without it the API speaks plain HTTP. Both files are needed. They are read again when they
    /// change, and at SIGHUP; a pair that does not fit together is refused, and the one before stays in use.
    TlsConfig, "listen.tls" {
        /// A PEM file with the certificate, followed by those of its issuers up to a root.
        cert_file: Option<PathBuf> = None;
        /// A PEM file with the certificate's private key (PKCS #8, PKCS #1 or SEC 1), which others than its owner should not read.
        key_file: Option<PathBuf> = None;
    }
}

impl TlsConfig {
    /// Certificate and key. `None`: plain HTTP.
    pub fn files(&self) -> Option<(&Path, &Path)> {
        Some((self.cert_file.as_deref()?, self.key_file.as_deref()?))
    }

    /// What no type can say, in one line.
    pub(super) fn check(&self) -> Result<(), String> {
        match (&self.cert_file, &self.key_file) {
            (Some(_), None) => Err("listen.tls.cert_file is set, but listen.tls.key_file is not: set both".to_owned()),
            (None, Some(_)) => Err("listen.tls.key_file is set, but listen.tls.cert_file is not: set both".to_owned()),
            (Some(_), Some(_)) | (None, None) => Ok(()),
        }
    }
}
