//! Every limit of the data path in one place, with its default.
//!
//! A limit that a policy can change lives in the snapshot (`CallPolicy`, `Breaker`); what is here holds for
//! the whole base. `docs/defaults.md` is generated from [`Limits::table`], and each line has a test that
//! hits it.

use std::time::Duration;

/// The largest number of headers in one head; fixed, because heads are parsed into stack arrays.
pub const MAX_HEADERS: usize = 128;

/// Bytes that one HTTP/2 stream may have waiting to be written; a sender waits beyond that.
pub const H2_SEND_BUFFER: usize = 256 * 1024;

/// Streams that one HTTP/2 client may have reset and that are still remembered; more ends its connection.
pub const H2_RESET_STREAMS: usize = 32;

/// The limits of one base.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Bytes of a request or response head, start line included.
    pub head_bytes: usize,
    /// Bytes of one chunk-size line with its extensions.
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
            door_queue: 1024,
        }
    }
}

impl Limits {
    /// Every limit as `(name, value, what it bounds)`, for the documentation page.
    pub fn table(&self) -> Vec<(&'static str, String, &'static str)> {
        let seconds = |duration: Duration| format!("{} s", duration.as_secs_f64());
        let bytes = |count: usize| format!("{} KiB", count as f64 / 1024.0);
        vec![
            ("headers", MAX_HEADERS.to_string(), "headers in one head; more is 431"),
            ("head_bytes", bytes(self.head_bytes), "a request head (431) or response head (502)"),
            (
                "chunk_line_bytes",
                bytes(self.chunk_line_bytes),
                "one chunk-size line with extensions; more is 400 or 502",
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
                "a tunnel that stands still in both directions",
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
                "door_queue",
                self.door_queue.to_string(),
                "calls from inside the base waiting for a thread; more is 503",
            ),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The section of the page that is written by this test: print it, and put it there, when a limit changes.
    #[test]
    fn the_page_of_defaults_has_every_limit_as_it_is() {
        let page = include_str!("../../../docs/defaults.md");
        let row = |(name, value, what): &(&str, String, &str)| format!("| {name} | {value} | {what} |\n");
        let rows: String = Limits::default().table().iter().map(row).collect();
        let wanted = format!("| limit | default | what it bounds |\n|---|---|---|\n{rows}");
        assert!(page.contains(&wanted), "docs/defaults.md is to have, word for word:\n{wanted}");
    }
}
