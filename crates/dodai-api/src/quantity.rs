//! Quantities with units: durations, sizes, shares of a processor, ports, weights. Written as text, checked when read.

use std::fmt;
use std::net::SocketAddr;
use std::num::NonZeroU16;
use std::str::FromStr;
use std::time::Duration;

use schemars::JsonSchema;
use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use crate::text::{Invalid, text_newtype};

/// A duration such as `500ms`, `2s`, `1m` or `1h30m`; whole nanoseconds, below 100 years.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TimeSpan(Duration);

/// A size in bytes such as `512Ki`, `64Mi` or `1Gi`; `k`, `M` and `G` are powers of 1000.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ByteSize(u64);

/// A share of processors in thousandths: `500m` is half a core, `2` is two cores.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MilliCpu(u32);

/// A TCP port, 1 to 65535.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct Port(NonZeroU16);

/// An address to listen on or to reach, such as `127.0.0.1:5432` or `[::1]:5432`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SocketAddress(SocketAddr);

/// Where something outside is: an IP address or a name, and a port, such as `10.0.0.7:443` or `bank.example:443`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Destination(String);

/// A share of traffic, 0 to 1000000, relative to the sum of its neighbours. 0 sends nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, JsonSchema)]
#[serde(transparent)]
pub struct Weight(#[schemars(range(min = 0, max = 1_000_000))] pub u32);

impl<'de> Deserialize<'de> for Weight {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Weight, D::Error> {
        from.deserialize_u32(WeightVisitor)
    }
}

/// Names the bound of weights, where a number alone would name its own. One above it is found with the other rules.
struct WeightVisitor;

impl Visitor<'_> for WeightVisitor {
    type Value = Weight;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a whole number from 0 to 1000000")
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<Weight, E> {
        let weight = u32::try_from(number).map(Weight);
        weight.map_err(|_| E::invalid_value(de::Unexpected::Unsigned(number), &self))
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<Weight, E> {
        let weight = u32::try_from(number).map(Weight);
        weight.map_err(|_| E::invalid_value(de::Unexpected::Signed(number), &self))
    }
}

text_newtype!(
    TimeSpan,
    "a duration such as `500ms`, `2s` or `1m`",
    r"^([0-9]+(\.[0-9]+)?(ns|us|ms|s|m|h|d))+$|^0$",
    "A duration: a number and a unit (`ns`, `us`, `ms`, `s`, `m`, `h`, `d`), such as `500ms`, `2s`, `1m` or `1h30m`."
);
text_newtype!(
    ByteSize,
    "a size such as `64Mi`",
    r"^[0-9]+(k|Ki|M|Mi|G|Gi|T|Ti)?$",
    "A size in bytes: a whole number with `Ki`, `Mi`, `Gi`, `Ti` (powers of 1024) or `k`, `M`, `G`, `T` (powers of 1000)."
);
text_newtype!(
    MilliCpu,
    "a share of processors such as `500m` or `2`",
    r"^[0-9]+m$|^[0-9]+(\.[0-9]{1,3})?$",
    "A share of processors: `500m` is half a core, `2` is two cores."
);
text_newtype!(
    SocketAddress,
    "an address and a port such as `127.0.0.1:5432`",
    r"^.+:[0-9]+$",
    "An IP address and a port, such as `127.0.0.1:5432` or `[::1]:5432`."
);

text_newtype!(
    Destination,
    "an address or a name with a port such as `bank.example:443`",
    r"^.+:[0-9]+$",
    "An IP address or a name, and a port, such as `10.0.0.7:443`, `[::1]:443` or `bank.example:443`."
);

const TIME_UNITS: [(&str, u64); 7] = [
    ("d", 86_400_000_000_000),
    ("h", 3_600_000_000_000),
    ("m", 60_000_000_000),
    ("s", 1_000_000_000),
    ("ms", 1_000_000),
    ("us", 1_000),
    ("ns", 1),
];
const LONGEST: Duration = Duration::from_secs(100 * 365 * 86_400);

impl TimeSpan {
    /// A duration of whole milliseconds.
    pub const fn from_millis(millis: u64) -> Self {
        Self(Duration::from_millis(millis))
    }

    /// A duration of whole seconds.
    pub const fn from_secs(seconds: u64) -> Self {
        Self(Duration::from_secs(seconds))
    }

    /// The duration.
    pub const fn get(self) -> Duration {
        self.0
    }

    fn parse_parts(text: &str) -> Option<Duration> {
        let mut rest = text;
        let mut total = Duration::ZERO;
        while !rest.is_empty() {
            let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
            let (number, tail) = rest.split_at(digits);
            let letters = tail.find(|c: char| c.is_ascii_digit()).unwrap_or(tail.len());
            let (unit, tail) = tail.split_at(letters);
            let (_, nanos) = TIME_UNITS.iter().find(|(name, _)| *name == unit)?;
            total = total.checked_add(scaled(number, *nanos)?)?;
            rest = tail;
        }
        (total <= LONGEST).then_some(total)
    }
}

/// `number` (digits with at most one point) times `nanos`, if it is a whole number of nanoseconds.
fn scaled(number: &str, nanos: u64) -> Option<Duration> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty()
        || whole.len() > 19
        || fraction.len() > 9
        || (number.contains('.') && fraction.is_empty())
    {
        return None;
    }
    let mut total = whole.parse::<u128>().ok()? * u128::from(nanos);
    if !fraction.is_empty() {
        let scale = 10_u128.pow(u32::try_from(fraction.len()).ok()?);
        let part = fraction.parse::<u128>().ok()? * u128::from(nanos);
        if part % scale != 0 {
            return None;
        }
        total += part / scale;
    }
    Some(Duration::from_nanos(u64::try_from(total).ok()?))
}

impl FromStr for TimeSpan {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        if text == "0" {
            return Ok(TimeSpan(Duration::ZERO));
        }
        if let Some(span) = (!text.is_empty()).then(|| TimeSpan::parse_parts(text)).flatten() {
            return Ok(TimeSpan(span));
        }
        let remedy = if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) && text.len() < 12 {
            format!("add a unit, for example `{text}s` or `{text}ms`")
        } else {
            "write a number and a unit (ms, s, m, h), for example `500ms`, `2s` or `1m`".to_owned()
        };
        Err(Invalid::new(format!("`{}` is not a duration", Invalid::shorten(text)), remedy))
    }
}

impl fmt::Display for TimeSpan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nanos = self.0.as_nanos();
        if nanos == 0 {
            return f.write_str("0s");
        }
        // Days are read but not written: `24h` is what other tools understand.
        for (unit, size) in &TIME_UNITS[1..] {
            let size = u128::from(*size);
            if nanos.is_multiple_of(size) {
                return write!(f, "{}{unit}", nanos / size);
            }
        }
        Ok(())
    }
}

const SIZE_UNITS: [(&str, u64); 8] = [
    ("Ti", 1 << 40),
    ("Gi", 1 << 30),
    ("Mi", 1 << 20),
    ("Ki", 1 << 10),
    ("T", 1_000_000_000_000),
    ("G", 1_000_000_000),
    ("M", 1_000_000),
    ("k", 1_000),
];

impl ByteSize {
    /// A size of whole bytes.
    pub const fn from_bytes(bytes: u64) -> Self {
        Self(bytes)
    }

    /// A size of whole mebibytes.
    pub const fn from_mebibytes(mebibytes: u32) -> Self {
        Self((mebibytes as u64) << 20)
    }

    /// The size in bytes.
    pub const fn bytes(self) -> u64 {
        self.0
    }
}

impl FromStr for ByteSize {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let (number, unit) = text.split_at(digits);
        let scale = match unit {
            "" => Some(1),
            _ => SIZE_UNITS.iter().find(|(name, _)| *name == unit).map(|(_, scale)| *scale),
        };
        let bytes = number.parse::<u64>().ok().zip(scale).and_then(|(n, scale)| n.checked_mul(scale));
        bytes.map(ByteSize).ok_or_else(|| {
            Invalid::new(
                format!("`{}` is not a size", Invalid::shorten(text)),
                "write a whole number of bytes with Ki, Mi or Gi, for example `64Mi`",
            )
        })
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (unit, scale) in SIZE_UNITS {
            if self.0 != 0 && self.0.is_multiple_of(scale) {
                return write!(f, "{}{unit}", self.0 / scale);
            }
        }
        write!(f, "{}", self.0)
    }
}

impl MilliCpu {
    /// Thousandths of one processor.
    pub const fn millis(self) -> u32 {
        self.0
    }
}

impl FromStr for MilliCpu {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let millis = match text.strip_suffix('m') {
            Some(number) if number.bytes().all(|b| b.is_ascii_digit()) => number.parse::<u32>().ok(),
            Some(_) => None,
            // A core is 1000 thousandths: the same decimal arithmetic as for durations, without floats.
            None => scaled(text, 1_000).and_then(|d| u32::try_from(d.as_nanos()).ok()),
        };
        millis.filter(|m| (1..=10_000_000).contains(m)).map(MilliCpu).ok_or_else(|| {
            Invalid::new(
                format!("`{}` is not a share of processors", Invalid::shorten(text)),
                "write thousandths of a core such as `500m`, or cores such as `2`",
            )
        })
    }
}

impl fmt::Display for MilliCpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_multiple_of(1000) { write!(f, "{}", self.0 / 1000) } else { write!(f, "{}m", self.0) }
    }
}

impl Port {
    /// The port, if it is not 0.
    pub fn new(port: u16) -> Option<Self> {
        NonZeroU16::new(port).map(Port)
    }

    /// The port as a number.
    pub const fn get(self) -> u16 {
        self.0.get()
    }
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl<'de> Deserialize<'de> for Port {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let number = i64::deserialize(deserializer)?;
        u16::try_from(number).ok().and_then(Port::new).ok_or_else(|| {
            serde::de::Error::custom(Invalid::new(
                format!("{number} is not a port"),
                "ports are whole numbers from 1 to 65535",
            ))
        })
    }
}

impl JsonSchema for Port {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Port".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "type": "integer", "minimum": 1, "maximum": 65535, "description": "A TCP port, 1 to 65535."
        })
    }
}

impl SocketAddress {
    /// The address and port.
    pub const fn get(self) -> SocketAddr {
        self.0
    }
}

impl From<SocketAddr> for SocketAddress {
    fn from(address: SocketAddr) -> Self {
        Self(address)
    }
}

impl FromStr for SocketAddress {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        // What people write for "this machine"; other names are not addresses.
        let loopback = text.strip_prefix("localhost:").map(|port| format!("127.0.0.1:{port}"));
        match loopback.as_deref().unwrap_or(text).parse::<SocketAddr>() {
            Ok(address) if address.port() != 0 => Ok(SocketAddress(address)),
            Ok(_) | Err(_) => Err(Invalid::new(
                format!("`{}` is not an address with a port", Invalid::shorten(text)),
                "write an IP address and a port, for example `127.0.0.1:5432` or `[::1]:5432`",
            )),
        }
    }
}

impl fmt::Display for SocketAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Destination {
    /// The name, if it is no IP address.
    pub fn name(&self) -> Option<&str> {
        let is_address = self.0.parse::<SocketAddr>().is_ok();
        self.0.rsplit_once(':').map(|(name, _)| name).filter(|_| !is_address)
    }
}

impl FromStr for Destination {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        if let Ok(address) = text.parse::<SocketAddress>() {
            return Ok(Destination(address.to_string()));
        }
        let label = |label: &str| {
            let letters = label.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'));
            (1..=63).contains(&label.len()) && letters && !label.starts_with('-') && !label.ends_with('-')
        };
        // What ends in a number is meant to be an IP address.
        let is_name = |name: &str| {
            let last = name.rsplit('.').next().unwrap_or(name);
            name.len() <= 253 && name.split('.').all(label) && !last.bytes().all(|b| b.is_ascii_digit())
        };
        match text.rsplit_once(':') {
            Some((name, port)) if is_name(name) && port.parse::<NonZeroU16>().is_ok() => {
                Ok(Destination(text.to_owned()))
            }
            Some(_) | None => Err(Invalid::new(
                format!("`{}` is not an address or a name with a port", Invalid::shorten(text)),
                "write an IP address or a name, and a port, for example `10.0.0.7:443` or `bank.example:443`",
            )),
        }
    }
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Weight {
    /// The weight of a destination that names none.
    pub const ONE: Weight = Weight(1);
}

impl Default for Weight {
    fn default() -> Self {
        Weight::ONE
    }
}
