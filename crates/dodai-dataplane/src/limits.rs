//! Every limit of the data path in one place, with its default.
//!
//! A limit that a policy can change lives in the snapshot (`CallPolicy`, `Breaker`); what is here holds for
//! the whole base. `cargo xtask defaults` writes [`Limits::page`] into `docs/defaults.md`.

use std::time::Duration;

use dodai_core::snapshot::BUSIEST_KEYS;
use dodai_transport::tls::HANDSHAKE_TIMEOUT;

/// The largest number of headers in one head; fixed, because heads are parsed into stack arrays.
pub const MAX_HEADERS: usize = 128;

/// The most bytes of a host with its port in an HTTP/1 request.
pub const MAX_AUTHORITY: usize = 255;

/// The most bytes of a request body that are kept for another try; with a longer one there is none once some of it was
/// sent, and no mirror gets a copy.
pub const KEPT_BODY: usize = 64 * 1024;

/// The most pieces that such a body may come in, which take room beside their bytes.
pub const KEPT_PIECES: usize = 1024;

/// Copies of calls on their way to mirrors, per data-plane thread; calls beyond are not copied.
pub const MAX_MIRRORS: usize = 64;

/// The most bytes that an expression makes of a path.
pub const MAX_REWRITTEN: usize = 16 * 1024;

/// The most bytes of a header's value that is made for a call; what is longer is cut.
pub const MAX_MADE: usize = 8 * 1024;

/// Entries of `X-Forwarded-For` that are looked at, from the last one; a chain of trusted proxies is no longer.
pub const FORWARDED_ENTRIES: usize = 32;

/// Endpoints that are asked at once how they are, per data-plane thread; others wait for the next second.
pub const MAX_CHECKS: usize = 64;

/// How often a name is looked up of which each address is an endpoint; up to half as long again, by chance.
pub const LOOK_UP_EVERY: Duration = Duration::from_secs(10);

/// Addresses of one such name that are used.
pub const MAX_ADDRESSES: usize = 64;

/// Bytes that wait to be written on one HTTP/2 connection; senders of data wait beyond that.
pub const H2_OUTBOX: usize = 64 * 1024;

/// Streams that an HTTP/2 client may give up, or break the rules in, before it is sent away.
pub const H2_RESETS: u32 = 1000;

/// How many more of those it may each second.
pub const H2_RESETS_PER_SECOND: u32 = 200;

/// Frames that do nothing (PING, SETTINGS, PRIORITY, DATA without data) before an HTTP/2 client is sent away.
pub const H2_IDLE_FRAMES: u32 = 10_000;

/// How many more of those it may send each second.
pub const H2_IDLE_FRAMES_PER_SECOND: u32 = 1000;

/// Pieces that one head or one set of trailers may come in over HTTP/2.
pub const H2_FRAGMENTS: u32 = 32;

/// Buckets that one rate limit with a key keeps at most, of 24 bytes each and room to grow.
pub const RATE_KEYS: usize = 50_000;

/// How long a first call waits to be told of an app that its base does not know; measured from the first that asks.
pub const DEMAND_WAIT: Duration = Duration::from_secs(1);

/// After how long a name without an answer is worth another wait.
pub const DEMAND_AGAIN: Duration = Duration::from_secs(30);

/// Names that a base asks for beyond those that documents declare; the oldest is forgotten first.
pub const DEMAND_NAMES: usize = 1024;

/// The limits of one base.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Bytes of a request or response head, start line included.
    pub head_bytes: usize,
    /// Bytes of the extensions of one chunk.
    pub chunk_line_bytes: usize,
    /// Bytes of all trailers of one body.
    pub trailer_bytes: usize,
    /// From accepting a connection, or the first byte of a later request, to the end of its head.
    pub head_timeout: Duration,
    /// A kept connection from a client without a request.
    pub client_idle_timeout: Duration,
    /// A kept connection to an endpoint without a request.
    pub pool_idle_timeout: Duration,
    /// A TCP or TLS connection to an endpoint, until it is usable.
    pub connect_timeout: Duration,
    /// From request head to response head, when no policy says otherwise.
    pub call_timeout: Duration,
    /// A body that stands still, when no policy says otherwise.
    pub idle_timeout: Duration,
    /// A tunnel (WebSocket, CONNECT, raw TCP) that stands still in both directions.
    pub pipe_idle_timeout: Duration,
    /// From the end of our response to the client's end, when we close first.
    pub linger_timeout: Duration,
    /// Connections from clients per data-plane thread; more wait in the kernel's queue.
    pub client_connections: usize,
    /// Streams at once on one HTTP/2 connection from a client.
    pub h2_streams: u32,
    /// HTTP/2 receive window of one stream in bytes.
    pub h2_stream_window: u32,
    /// HTTP/2 receive window of one connection in bytes.
    pub h2_connection_window: u32,
    /// Silence on an HTTP/2 connection to an endpoint under calls, after which it is asked by a PING whether it lives.
    pub h2_ping_interval: Duration,
    /// From a PING to its answer.
    pub h2_ping_timeout: Duration,
    /// Clients of one UDP listener, on each data-plane thread.
    pub udp_sessions: usize,
    /// A UDP client and its endpoint that are both silent.
    pub udp_idle_timeout: Duration,
    /// Calls from inside the base (modules, APIs, deliveries) waiting for a data-plane thread.
    pub door_queue: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            head_bytes: 32 * 1024,
            chunk_line_bytes: 256,
            trailer_bytes: 8 * 1024,
            head_timeout: Duration::from_secs(15),
            client_idle_timeout: Duration::from_secs(75),
            pool_idle_timeout: Duration::from_secs(30),
            connect_timeout: Duration::from_secs(5),
            call_timeout: Duration::from_secs(60),
            idle_timeout: Duration::from_secs(60),
            pipe_idle_timeout: Duration::from_secs(3600),
            linger_timeout: Duration::from_secs(2),
            client_connections: 20_000,
            h2_streams: 256,
            h2_stream_window: 256 * 1024,
            h2_connection_window: 1024 * 1024,
            h2_ping_interval: Duration::from_secs(10),
            h2_ping_timeout: Duration::from_secs(10),
            udp_sessions: 4096,
            udp_idle_timeout: Duration::from_secs(60),
            door_queue: 1024,
        }
    }
}

impl Limits {
    /// Every limit as a table, for the documentation page.
    pub fn page(&self) -> String {
        let row = |(name, value, what): &(&str, String, &str)| format!("| {name} | {value} | {what} |\n");
        let rows: String = self.table().iter().chain(&fixed()).map(row).collect();
        format!("| limit | default | what it bounds |\n|---|---|---|\n{rows}")
    }

    /// The limits that a base may be given, as `(name, value, what it bounds)`.
    fn table(&self) -> Vec<(&'static str, String, &'static str)> {
        let seconds = |duration: Duration| format!("{} s", duration.as_secs_f64());
        let bytes = |count: usize| format!("{} KiB", count as f64 / 1024.0);
        vec![
            ("headers", MAX_HEADERS.to_string(), "headers in one head; more is 431"),
            (
                "authority",
                format!("{MAX_AUTHORITY} bytes"),
                "host and port of an HTTP/1 request; more is 400",
            ),
            ("head_bytes", bytes(self.head_bytes), "a request head (431) or response head (502)"),
            (
                "chunk_line_bytes",
                bytes(self.chunk_line_bytes),
                "the extensions of one chunk; more is 400 or 502",
            ),
            ("trailer_bytes", bytes(self.trailer_bytes), "the trailers of one body; more is 400 or 502"),
            ("head_timeout", seconds(self.head_timeout), "a client's request head; slower is 408"),
            (
                "client_idle_timeout",
                seconds(self.client_idle_timeout),
                "a kept client connection without a request",
            ),
            (
                "pool_idle_timeout",
                seconds(self.pool_idle_timeout),
                "a kept endpoint connection without a request",
            ),
            ("connect_timeout", seconds(self.connect_timeout), "connecting to an endpoint; slower is 503"),
            ("call_timeout", seconds(self.call_timeout), "request head to response head; slower is 504"),
            ("idle_timeout", seconds(self.idle_timeout), "a body that stands still, either direction"),
            (
                "pipe_idle_timeout",
                seconds(self.pipe_idle_timeout),
                "a tunnel that stands still in both directions; one whose far side vanished ends after two minutes",
            ),
            ("linger_timeout", seconds(self.linger_timeout), "waiting for the client to close after we did"),
            (
                "client_connections",
                self.client_connections.to_string(),
                "client connections per data-plane thread",
            ),
            ("h2_streams", self.h2_streams.to_string(), "concurrent streams on one HTTP/2 client connection"),
            ("h2_stream_window", bytes(self.h2_stream_window as usize), "HTTP/2 receive window per stream"),
            (
                "h2_connection_window",
                bytes(self.h2_connection_window as usize),
                "HTTP/2 receive window per connection",
            ),
            (
                "h2_ping_interval",
                seconds(self.h2_ping_interval),
                "silence of an HTTP/2 endpoint under calls; then it is asked by a PING, later ones ever further apart",
            ),
            (
                "h2_ping_timeout",
                seconds(self.h2_ping_timeout),
                "the answer to that PING; slower closes the connection, and its calls get 502",
            ),
            (
                "tls_handshake_timeout",
                seconds(HANDSHAKE_TIMEOUT),
                "a TLS handshake with a client; slower is closed",
            ),
            (
                "udp_sessions",
                self.udp_sessions.to_string(),
                "clients of one UDP listener per data-plane thread; datagrams of more are dropped",
            ),
            (
                "udp_idle_timeout",
                seconds(self.udp_idle_timeout),
                "a UDP client and its endpoint that are both silent; then the client is forgotten",
            ),
            (
                "door_queue",
                self.door_queue.to_string(),
                "calls from inside the base waiting for a thread; more is 503",
            ),
        ]
    }
}

/// The limits that are the same for every base.
fn fixed() -> Vec<(&'static str, String, &'static str)> {
    let seconds = |duration: Duration| format!("{} s", duration.as_secs_f64());
    let bytes = |count: usize| format!("{} KiB", count as f64 / 1024.0);
    vec![
        ("kept_body", bytes(KEPT_BODY), "a request body that is kept for another try or a mirror"),
        (
            "kept_pieces",
            KEPT_PIECES.to_string(),
            "pieces (chunks, frames) of such a body; with more it is not kept",
        ),
        ("mirrors", MAX_MIRRORS.to_string(), "copies on their way to mirrors, per thread; more are not made"),
        (
            "rewritten",
            bytes(MAX_REWRITTEN),
            "a path that an expression of a rewrite makes; a longer one is refused",
        ),
        ("made_value", bytes(MAX_MADE), "the value of a header that is made for a call; the rest is cut"),
        (
            "forwarded_entries",
            FORWARDED_ENTRIES.to_string(),
            "entries of `X-Forwarded-For` that are looked at behind trusted proxies, from the last one",
        ),
        (
            "h2_resets",
            H2_RESETS.to_string(),
            "streams that an HTTP/2 client may give up at once; more ends its connection",
        ),
        (
            "h2_resets_per_second",
            H2_RESETS_PER_SECOND.to_string(),
            "how many more of those it may each second",
        ),
        (
            "h2_idle_frames",
            H2_IDLE_FRAMES.to_string(),
            "HTTP/2 frames that do nothing (PING, SETTINGS, PRIORITY, empty DATA); more ends the connection",
        ),
        (
            "h2_idle_frames_per_second",
            H2_IDLE_FRAMES_PER_SECOND.to_string(),
            "how many more of those it may each second",
        ),
        ("h2_fragments", H2_FRAGMENTS.to_string(), "frames of one HTTP/2 head; more ends the connection"),
        ("h2_outbox", bytes(H2_OUTBOX), "bytes that wait to be written on one HTTP/2 connection"),
        (
            "checks",
            MAX_CHECKS.to_string(),
            "endpoints that are asked at once how they are, per thread; more wait for the next second",
        ),
        (
            "look_up_every",
            seconds(LOOK_UP_EVERY),
            "until a name of an external app with `resolve: all` is looked up again; up to half as long again, by chance",
        ),
        ("addresses", MAX_ADDRESSES.to_string(), "addresses of one such name that are used"),
        (
            "rate_keys",
            RATE_KEYS.to_string(),
            "keys of one rate limit that were called by lately, on each base; further ones share one bucket",
        ),
        (
            "busiest_keys",
            BUSIEST_KEYS.to_string(),
            "keys of one limit of all bases that are shared by demand; further ones are shared evenly",
        ),
        (
            "demand_wait",
            seconds(DEMAND_WAIT),
            "the first call to an app that was not declared, on a base that joined a server, until it is told of it",
        ),
        ("demand_again", seconds(DEMAND_AGAIN), "until such a name without an answer is worth another wait"),
        (
            "demand_names",
            DEMAND_NAMES.to_string(),
            "names that a base asks its server for; the oldest is forgotten first",
        ),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_of_defaults_has_every_limit_as_it_is() {
        let page = include_str!("../../../docs/defaults.md");
        assert!(page.contains(&Limits::default().page()), "mend docs/defaults.md by `cargo xtask defaults`");
    }
}
