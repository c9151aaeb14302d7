//! The message types that are written into bags, with what a reader needs to know of them.

/// A message type: its name, its definition, and the hash by which ROS 2 compares definitions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MessageType<'a> {
    /// Such as `sensor_msgs/msg/Image`.
    pub name: &'a str,
    /// Fields of the message, then of each type it uses behind a line of 80 `=` and a line `MSG: package/Type`.
    pub definition: &'a str,
    /// `RIHS01_…` (REP-2016); empty where unknown.
    pub hash: &'a str,
}

macro_rules! with_header {
    ($fields:literal) => {
        concat!(
            $fields,
            "================================================================================\n",
            "MSG: std_msgs/Header\n",
            "builtin_interfaces/Time stamp\n",
            "string frame_id\n",
            "================================================================================\n",
            "MSG: builtin_interfaces/Time\n",
            "int32 sec\n",
            "uint32 nanosec\n",
        )
    };
}

/// `sensor_msgs/msg/Image`.
pub const IMAGE: MessageType<'static> = MessageType {
    name: "sensor_msgs/msg/Image",
    definition: with_header!(
        "std_msgs/Header header
uint32 height
uint32 width
string encoding
uint8 is_bigendian
uint32 step
uint8[] data
"
    ),
    hash: "RIHS01_d31d41a9a4c4bc8eae9be757b0beed306564f7526c88ea6a4588fb9582527d47",
};

/// `sensor_msgs/msg/CompressedImage`.
pub const COMPRESSED_IMAGE: MessageType<'static> = MessageType {
    name: "sensor_msgs/msg/CompressedImage",
    definition: with_header!("std_msgs/Header header\nstring format\nuint8[] data\n"),
    hash: "RIHS01_15640771531571185e2efc8a100baf923961a4d15d5569652e6cb6691e8e371a",
};

/// `std_msgs/msg/String`.
pub const STRING: MessageType<'static> = MessageType {
    name: "std_msgs/msg/String",
    definition: "string data\n",
    hash: "RIHS01_df668c740482bbd48fb39d76a70dfd4bd59db1288021743503259e948f6b1a18",
};

/// Quality of service that a topic's publisher is said to have offered; `ros2 bag play` publishes with it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Qos {
    /// Keep last 10, best effort, volatile: what camera drivers offer.
    #[default]
    BestEffort,
    /// Keep last 10, reliable, volatile.
    Reliable,
    /// Keep last 1, reliable, transient local: late subscribers get the last message.
    Latched,
}

impl Qos {
    /// The profile in YAML, as a list of one, each line behind `indent` spaces.
    pub(super) fn yaml(self, indent: usize) -> String {
        let (depth, reliability, durability) = match self {
            Self::BestEffort => (10, "best_effort", "volatile"),
            Self::Reliable => (10, "reliable", "volatile"),
            Self::Latched => (1, "reliable", "transient_local"),
        };
        // The longest duration that ROS 2 knows stands for "never".
        let never = "\n    sec: 9223372036\n    nsec: 854775807";
        let profile = format!(
            "- history: keep_last\n  depth: {depth}\n  reliability: {reliability}\n  durability: {durability}\n  \
             deadline:{never}\n  lifespan:{never}\n  liveliness: automatic\n  liveliness_lease_duration:{never}\n  \
             avoid_ros_namespace_conventions: false\n"
        );
        profile.lines().map(|line| format!("{:indent$}{line}\n", "")).collect()
    }
}
