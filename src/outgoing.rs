//! Requests to addresses that somebody chose who does not run the platform: a tenant's webhook must not reach what only this machine's network
//! can reach.
//!
//! What always holds: such a request goes to a public address, or to one in a range that the operator allows. The address is looked at when
//! the connection is made, each time, so that a name that meant something harmless a moment ago does not help; redirects are not followed;
//! no proxy is used, which would look names up itself.

use std::{
    error::Error as StdError,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use url::{Host, Url};

use crate::config::{IpRange, OutgoingConfig};

/// Longest wait for a name's addresses while a URL is checked.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(5);

/// Longest wait for a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Why a URL is not used. Says nothing about the network: whoever chose it may be told.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OutgoingError {
    #[error("the URL is not https:// and a host, without user and password")]
    Form,
    #[error("the URL's host is not a public address")]
    NotPublic,
    #[error("the URL's host has no address that can be found")]
    NotFound,
}

/// Which addresses are reached.
#[derive(Clone, Debug)]
pub struct Outgoing {
    allow: Arc<[IpRange]>,
}

impl Outgoing {
    pub fn new(config: &OutgoingConfig) -> Self {
        Self { allow: config.allow.clone().into() }
    }

    /// Whether a request may go to this address.
    pub fn permits(&self, address: IpAddr) -> bool {
        let address = unwrapped(address);
        is_public(address) || self.allow.iter().any(|range| range.contains(address))
    }

    /// Looks at everything of a URL that can be seen without asking anybody: its form, and its host where that is an address, in whatever
    /// spelling.
    ///
    /// # Errors
    /// A request may not go there.
    pub fn check_form(&self, url: &Url) -> Result<(), OutgoingError> {
        if url.scheme() != "https" || !url.username().is_empty() || url.password().is_some() {
            return Err(OutgoingError::Form);
        }
        let address = match url.host() {
            None => return Err(OutgoingError::Form),
            // Names that never leave the machine, whatever a resolver says (RFC 6761 section 6.3).
            Some(Host::Domain(name)) => match name.trim_end_matches('.') {
                "" => return Err(OutgoingError::Form),
                name if name == "localhost" || name.ends_with(".localhost") => IpAddr::V4(Ipv4Addr::LOCALHOST),
                _ => return Ok(()),
            },
            Some(Host::Ipv4(address)) => IpAddr::V4(address),
            Some(Host::Ipv6(address)) => IpAddr::V6(address),
        };
        if self.permits(address) { Ok(()) } else { Err(OutgoingError::NotPublic) }
    }

    /// The same, and looks its host up: for the moment in which somebody sets it. What counts is the connection later.
    ///
    /// # Errors
    /// A request may not go there, or the host is not known.
    pub async fn check(&self, url: &Url) -> Result<(), OutgoingError> {
        self.check_form(url)?;
        let Some(Host::Domain(name)) = url.host() else { return Ok(()) };
        let found = tokio::time::timeout(LOOKUP_TIMEOUT, tokio::net::lookup_host((name, 443))).await;
        let Ok(Ok(found)) = found else { return Err(OutgoingError::NotFound) };
        let found: Vec<SocketAddr> = found.collect();
        match found.is_empty() {
            true => Err(OutgoingError::NotFound),
            // One that is not public beside others is a trick or a mistake.
            false if found.iter().all(|address| self.permits(address.ip())) => Ok(()),
            false => Err(OutgoingError::NotPublic),
        }
    }
}

/// Sends requests to URLs that tenants have chosen.
#[derive(Clone, Debug)]
pub struct OutgoingClient {
    outgoing: Outgoing,
    client: reqwest::Client,
}

/// A client for URLs that tenants have chosen, with `timeout` for a whole request. For URLs that operators have chosen any client will do.
///
/// # Errors
/// TLS cannot be set up.
pub fn client(config: &OutgoingConfig, timeout: Duration) -> Result<OutgoingClient, reqwest::Error> {
    OutgoingClient::with(Outgoing::new(config), timeout, SystemNames)
}

impl OutgoingClient {
    fn with(outgoing: Outgoing, timeout: Duration, names: impl Names) -> Result<Self, reqwest::Error> {
        let client = reqwest::Client::builder()
            .dns_resolver(Arc::new(Filtered { outgoing: outgoing.clone(), names: Arc::new(names) }))
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(timeout)
            .user_agent(concat!("holdfast/", env!("CARGO_PKG_VERSION")))
            .build()?;
        Ok(Self { outgoing, client })
    }

    /// Begins a POST.
    ///
    /// # Errors
    /// The URL is none that a request may go to. (A name whose addresses are not public fails when the request is sent.)
    pub fn post(&self, url: &Url) -> Result<reqwest::RequestBuilder, OutgoingError> {
        // A host that is an address is never looked up, so that the resolver would not see it.
        self.outgoing.check_form(url)?;
        Ok(self.client.post(url.clone()))
    }
}

/// Who knows names.
trait Names: Send + Sync + 'static {
    fn look_up(&self, name: String) -> impl Future<Output = std::io::Result<Vec<SocketAddr>>> + Send;
}

/// As the system does.
struct SystemNames;

impl Names for SystemNames {
    async fn look_up(&self, name: String) -> std::io::Result<Vec<SocketAddr>> {
        Ok(tokio::net::lookup_host((name, 0)).await?.collect())
    }
}

/// Gives a connection only such addresses as may be reached: what is looked at is what is connected to.
struct Filtered<N> {
    outgoing: Outgoing,
    names: Arc<N>,
}

impl<N: Names> Resolve for Filtered<N> {
    fn resolve(&self, name: Name) -> Resolving {
        let (outgoing, names) = (self.outgoing.clone(), Arc::clone(&self.names));
        let name = name.as_str().to_owned();
        Box::pin(async move {
            let found = names.look_up(name).await?;
            let permitted: Vec<SocketAddr> =
                found.into_iter().filter(|address| outgoing.permits(address.ip())).collect();
            if permitted.is_empty() {
                return Err(Box::new(OutgoingError::NotPublic) as Box<dyn StdError + Send + Sync>);
            }
            Ok(Box::new(permitted.into_iter()) as Addrs)
        })
    }
}

/// The address that packets go to in the end: IPv4 out of IPv6 where it is mapped (RFC 4291 section 2.5.5.2) or translated (RFC 6052).
fn unwrapped(address: IpAddr) -> IpAddr {
    let IpAddr::V6(v6) = address else { return address };
    if let Some(v4) = v6.to_ipv4_mapped() {
        return IpAddr::V4(v4);
    }
    match v6.segments() {
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => {
            IpAddr::V4(Ipv4Addr::from_bits((u32::from(high) << 16) | u32::from(low)))
        }
        _ => address,
    }
}

/// Whether an address is one of the public Internet, by IANA's registries of special-purpose addresses (RFC 6890 and its updates).
fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => is_public_v6(address),
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    !matches!(
        (a, b, c),
        (0 | 10 | 127, _, _)            // this network, private, loopback
        | (100, 64..=127, _)            // carrier-grade NAT, RFC 6598
        | (169, 254, _)                 // link-local, with the clouds' metadata
        | (172, 16..=31, _)             // private
        | (192, 0, 0 | 2)               // protocol assignments, documentation
        | (192, 88, 99)                 // 6to4 relays
        | (192, 168, _)                 // private
        | (198, 18 | 19, _)             // benchmarks
        | (198, 51, 100)                // documentation
        | (203, 0, 113)                 // documentation
        | (224..=255, _, _) // multicast, reserved, broadcast
    )
}

fn is_public_v6(address: Ipv6Addr) -> bool {
    let [first, second, ..] = address.segments();
    // Global unicast is 2000::/3; the rest is loopback, unique local, link-local, multicast, reserved and so on.
    let is_global = (0x2000..=0x3fff).contains(&first);
    let is_special = (first == 0x2001 && (second < 0x0200 || second == 0x0db8)) // protocol assignments with Teredo, documentation
        || first == 0x2002                                          // 6to4: IPv4 inside
        || (first == 0x3fff && second < 0x1000); // documentation
    is_global && !is_special
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    fn outgoing(allow: &[&str]) -> Outgoing {
        Outgoing::new(&OutgoingConfig { allow: allow.iter().map(|range| range.parse().unwrap()).collect() })
    }

    #[test]
    fn addresses_inside_are_refused_however_they_are_spelt() {
        for host in [
            "127.0.0.1",
            "127.1",
            "2130706433",
            "0x7f000001",
            "0x7f.1",
            "0177.0.0.1",
            "017700000001",
            "127.0.0.1.",
            "0",
            "0.0.0.0",
            "localhost",
            "LOCALHOST",
            "localhost.",
            "a.localhost",
            "%6c%6f%63%61%6c%68%6f%73%74",
            "①②⑦.0.0.1",
            "127。0。0。1",
            "10.0.0.1",
            "10.1",
            "172.16.0.1",
            "172.31.255.255",
            "192.168.1.1",
            "192.168.257",
            "100.64.0.1",
            "100.127.255.255",
            "169.254.169.254",
            "0xa9fea9fe",
            "2852039166",
            "0251.0376.0251.0376",
            "192.0.0.1",
            "198.18.0.1",
            "224.0.0.1",
            "240.0.0.1",
            "255.255.255.255",
            "203.0.113.1",
            "[::]",
            "[::1]",
            "[0:0:0:0:0:0:0:1]",
            "[::ffff:127.0.0.1]",
            "[::ffff:a9fe:a9fe]",
            "[::ffff:0:127.0.0.1]",
            "[::127.0.0.1]",
            "[64:ff9b::10.0.0.1]",
            "[64:ff9b:1::1]",
            "[fc00::1]",
            "[fd12:3456::1]",
            "[fe80::1]",
            "[fec0::1]",
            "[ff02::1]",
            "[2002:7f00:1::]",
            "[2001:0:1::1]",
            "[2001:db8::1]",
            "[100::1]",
        ] {
            let url = format!("https://{host}/hook");
            let url: Url = url.parse().unwrap_or_else(|error| panic!("{url}: {error}"));
            assert_eq!(outgoing(&[]).check_form(&url), Err(OutgoingError::NotPublic), "{host}");
        }
    }

    #[test]
    fn what_is_public_is_reached() {
        for host in [
            "example.com",
            "example.com.",
            "8.8.8.8",
            "172.32.0.1",
            "100.128.0.1",
            "192.0.1.1",
            "[2606:4700::1111]",
            "[::ffff:8.8.8.8]",
            "[64:ff9b::8.8.8.8]",
        ] {
            let url: Url = format!("https://{host}/hook").parse().unwrap();
            assert_eq!(outgoing(&[]).check_form(&url), Ok(()), "{host}");
        }
    }

    #[test]
    fn other_schemes_users_and_passwords_are_refused() {
        for url in [
            "http://example.com/",
            "https://u@example.com/",
            "https://u:p@example.com/",
            "https://example.com@127.0.0.1/",
            "ftp://example.com/",
            "file:///etc/passwd",
            "https://example.com:x@8.8.8.8/",
            "data:,x",
        ] {
            assert_eq!(outgoing(&["0.0.0.0/0"]).check_form(&url.parse().unwrap()), Err(OutgoingError::Form), "{url}");
        }
    }

    #[test]
    fn an_operator_may_allow_ranges() {
        let outgoing = outgoing(&["10.0.0.0/8", "fd00::/8"]);
        for (host, is_permitted) in [
            ("10.1.2.3", true),
            ("[::ffff:10.1.2.3]", true),
            ("[fd00::1]", true),
            ("[fc00::1]", false),
            ("192.168.0.1", false),
            ("127.0.0.1", false),
        ] {
            let url = format!("https://{host}/").parse().unwrap();
            assert_eq!(outgoing.check_form(&url).is_ok(), is_permitted, "{host}");
        }
    }

    #[tokio::test]
    async fn a_host_is_looked_up_when_it_is_set() {
        let local: Url = "https://localhost/".parse().unwrap();
        assert_eq!(outgoing(&[]).check(&local).await, Err(OutgoingError::NotPublic));
        assert_eq!(outgoing(&["127.0.0.0/8", "::1"]).check(&local).await, Ok(()));
        let nowhere: Url = "https://nowhere.invalid/".parse().unwrap();
        assert_eq!(outgoing(&[]).check(&nowhere).await, Err(OutgoingError::NotFound));
    }

    /// Says something harmless when asked first, and this machine from then on.
    struct Rebinding {
        port: u16,
        asked: AtomicUsize,
    }

    impl Names for Arc<Rebinding> {
        async fn look_up(&self, _: String) -> std::io::Result<Vec<SocketAddr>> {
            let address = match self.asked.fetch_add(1, Ordering::SeqCst) {
                0 => [192, 0, 2, 1],
                _ => [127, 0, 0, 1],
            };
            Ok(vec![SocketAddr::from((address, self.port))])
        }
    }

    #[tokio::test]
    async fn a_name_that_turns_to_this_machine_is_not_connected_to() {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let names = Arc::new(Rebinding { port, asked: AtomicUsize::new(1) });
        let url: Url = format!("https://rebinding.example:{port}/").parse().unwrap();
        let send = async |outgoing: Outgoing| {
            let client = OutgoingClient::with(outgoing, Duration::from_secs(5), Arc::clone(&names)).unwrap();
            client.post(&url).unwrap().send().await.unwrap_err()
        };
        let error = send(outgoing(&[])).await;
        let mut cause = error.source();
        while let Some(inner) = cause.filter(|cause| !cause.is::<OutgoingError>()) {
            cause = inner.source();
        }
        assert!(cause.is_some(), "{error:?}");
        // Allowed, the same request gets as far as TLS: so it was the filter that kept it.
        let greeted = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut first = [0];
            stream.read_exact(&mut first).await.unwrap();
            stream.write_all(b"no TLS here").await.unwrap();
            first[0]
        });
        send(outgoing(&["127.0.0.1"])).await;
        // A TLS record of type handshake (RFC 8446 section 5.1).
        assert_eq!(greeted.await.unwrap(), 22);
    }
}
