use std::net::{Ipv4Addr, SocketAddr};

super::section! {
    /// Where the API listens.
    ListenConfig, "listen" {
        /// Address and port. Port 0 takes a free one. Default: loopback only, port 3000.
        ["HOLDFAST_LISTEN"]
        address: SocketAddr = SocketAddr::from((Ipv4Addr::LOCALHOST, 3000));
        /// Largest request body, in bytes. Default: 1 MiB.
        max_body: crate::byte_size::ByteSize = crate::byte_size::ByteSize::mib(1);
    }
}
