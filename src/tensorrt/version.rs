//! Versions of TensorRT, and which of them make the same virtual calls.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The two products that share an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Flavour {
    /// TensorRT, of servers, desktops and Jetson: builds on the GPU it will run on.
    #[serde(rename = "tensorrt")]
    Full,
    /// TensorRT-RTX, of desktops: builds anywhere, compiles for the device when it starts.
    #[serde(rename = "tensorrt-rtx")]
    Rtx,
}

impl Flavour {
    /// Whether a library speaks the calls of a build: the same product and major, for RTX also the same minor. The
    /// virtual tables of RTX changed between 1.4 and 1.5; those of TensorRT are the same within a major.
    pub fn same_calls(self, library: Version, built_for: Self, headers: Version) -> bool {
        self == built_for
            && library.0[0] == headers.0[0]
            && (self == Self::Full || library.0[1] == headers.0[1])
    }
}

impl fmt::Display for Flavour {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Full => "TensorRT",
            Self::Rtx => "TensorRT-RTX",
        })
    }
}

/// Major, minor, patch, build.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Version(pub [u32; 4]);

impl Version {
    /// From what `getInferLibVersion` returns: 10.16.1 says 101601, RTX 1.7.1 says 10701, but 8.6.1 said 8601.
    pub fn from_number(number: u32) -> Self {
        let thousands = if number < 10_000 { 1000 } else { 10_000 };
        let minor = number % thousands / 100;
        Self([number / thousands, minor, number % 100, 0])
    }

    /// Its first number.
    pub fn major(self) -> u32 {
        self.0[0]
    }

    /// Whose version it is. TensorRT-RTX counts from 1; the oldest TensorRT with these calls is 8.
    pub fn flavour(self) -> Flavour {
        if self.major() < 5 { Flavour::Rtx } else { Flavour::Full }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [major, minor, patch, build] = self.0;
        write!(f, "{major}.{minor}.{patch}.{build}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_as_each_product_writes_them() {
        let cases = [
            (101_601, [10, 16, 1, 0], Flavour::Full),
            (110_400, [11, 4, 0, 0], Flavour::Full),
            (10_701, [1, 7, 1, 0], Flavour::Rtx),
            (8601, [8, 6, 1, 0], Flavour::Full),
        ];
        for (number, version, flavour) in cases {
            let read = Version::from_number(number);
            assert_eq!((read.0, read.flavour()), (version, flavour), "{number}");
        }
    }

    #[test]
    fn only_the_same_product_and_major_make_the_same_calls() {
        let (full, rtx) = (Flavour::Full, Flavour::Rtx);
        let version = |major, minor| Version([major, minor, 0, 0]);
        let same =
            |library: Version, flavour, headers| library.flavour().same_calls(library, flavour, headers);
        assert!(same(version(10, 3), full, version(10, 16)));
        assert!(!same(version(10, 16), full, version(11, 4)));
        assert!(!same(version(11, 4), full, version(10, 16)));
        assert!(same(version(1, 7), rtx, version(1, 7)));
        assert!(!same(version(1, 4), rtx, version(1, 7)), "RTX changes its tables between minors");
        assert!(!same(version(10, 16), rtx, version(1, 7)));
    }
}
