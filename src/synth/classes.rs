//! The classes of a scene and their colours.

/// A class as consumers see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClassInfo {
    /// Name, in lower case.
    pub name: &'static str,
    /// Display colour: red, green, blue.
    pub colour: [u8; 3],
}

/// The classes; a label is an index into this table.
pub const CLASSES: [ClassInfo; 13] = [
    ClassInfo { name: "road", colour: [128, 64, 128] },
    ClassInfo { name: "lane_marking", colour: [255, 255, 255] },
    ClassInfo { name: "kerb", colour: [196, 140, 100] },
    ClassInfo { name: "sidewalk", colour: [244, 35, 232] },
    ClassInfo { name: "building", colour: [90, 90, 90] },
    ClassInfo { name: "vegetation", colour: [107, 142, 35] },
    ClassInfo { name: "sky", colour: [70, 130, 180] },
    ClassInfo { name: "pole", colour: [190, 190, 160] },
    ClassInfo { name: "wire", colour: [0, 230, 230] },
    ClassInfo { name: "sign", colour: [230, 220, 0] },
    ClassInfo { name: "traffic_light", colour: [255, 140, 0] },
    ClassInfo { name: "car", colour: [0, 20, 190] },
    ClassInfo { name: "pedestrian", colour: [220, 20, 60] },
];

/// Index into [`CLASSES`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Class {
    Road,
    LaneMarking,
    Kerb,
    Sidewalk,
    Building,
    Vegetation,
    Sky,
    Pole,
    Wire,
    Sign,
    TrafficLight,
    Car,
    Pedestrian,
}
