//! Which topics are cameras, which are label images, and which belong together.

use super::Topic;

/// How the images of a topic are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImageKind {
    /// `sensor_msgs/msg/Image`.
    Raw,
    /// `sensor_msgs/msg/CompressedImage`.
    Compressed,
}

impl ImageKind {
    /// The kind of a message type, `None` where it is not an image.
    pub fn of(type_name: &str) -> Option<Self> {
        match type_name {
            "sensor_msgs/msg/Image" => Some(Self::Raw),
            "sensor_msgs/msg/CompressedImage" => Some(Self::Compressed),
            _ => None,
        }
    }
}

/// An image topic and how its images are stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageTopic {
    /// Such as `/camera/front/image_raw`.
    pub name: String,
    /// Raw or compressed.
    pub kind: ImageKind,
}

/// A camera and, where the bag has one, the topic with its true labels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CameraTopics {
    /// The camera's images.
    pub image: ImageTopic,
    /// Label images of the same camera.
    pub label: Option<ImageTopic>,
}

/// Cameras of a bag, in its order, each with its label topic.
///
/// Every image topic is a camera, except label topics, which have `label` in a part of their name. Of a camera recorded
/// both raw and compressed (`…/compressed`) the raw images are taken. A label belongs to the camera whose name goes on
/// from what stands before `label`: `/camera/front/label` to `/camera/front/image_raw`, unless several cameras do.
pub fn camera_topics(topics: &[Topic]) -> Vec<CameraTopics> {
    let images = topics.iter().filter_map(|topic| {
        Some(ImageTopic { name: topic.name.clone(), kind: ImageKind::of(&topic.type_name)? })
    });
    let (mut labels, mut cameras): (Vec<_>, Vec<_>) =
        images.partition(|topic| label_prefix(&topic.name).is_some());
    drop_compressed_twins(&mut labels);
    drop_compressed_twins(&mut cameras);
    let names: Vec<String> = cameras.iter().map(|camera| camera.name.clone()).collect();
    let belongs =
        |label: &ImageTopic, camera: &str| label_prefix(&label.name).is_some_and(|p| is_under(camera, p));
    labels.retain(|label| names.iter().filter(|camera| belongs(label, camera)).count() == 1);
    let pair = |image: ImageTopic| {
        let own = labels.iter().filter(|label| belongs(label, &image.name));
        // The closest name, of equals the first: `max_by_key` would take the last.
        let label =
            own.min_by_key(|label| std::cmp::Reverse(label_prefix(&label.name).map(str::len))).cloned();
        CameraTopics { image, label }
    };
    cameras.into_iter().map(pair).collect()
}

/// What stands before the first part of the name with `label` in it; `None` where no part has.
fn label_prefix(name: &str) -> Option<&str> {
    let start = name.to_ascii_lowercase().find("label")?;
    Some(name[..start].rfind('/').map_or("", |slash| &name[..slash]))
}

/// Whether the topic's name is the prefix and further parts.
fn is_under(name: &str, prefix: &str) -> bool {
    name.strip_prefix(prefix).is_some_and(|rest| rest.starts_with('/'))
}

fn drop_compressed_twins(topics: &mut Vec<ImageTopic>) {
    let raw: Vec<String> =
        topics.iter().filter(|topic| topic.kind == ImageKind::Raw).map(|topic| topic.name.clone()).collect();
    topics.retain(|topic| {
        let base = topic.name.strip_suffix("/compressed");
        topic.kind == ImageKind::Raw || !base.is_some_and(|base| raw.iter().any(|name| name == base))
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    const RAW: &str = "sensor_msgs/msg/Image";
    const COMPRESSED: &str = "sensor_msgs/msg/CompressedImage";

    fn pairs(topics: &[(&str, &str)]) -> Vec<(String, Option<String>)> {
        let topics: Vec<Topic> = topics
            .iter()
            .map(|(name, type_name)| Topic {
                name: (*name).to_owned(),
                type_name: (*type_name).to_owned(),
                serialization_format: "cdr".to_owned(),
                messages: None,
            })
            .collect();
        let cameras = camera_topics(&topics);
        cameras.into_iter().map(|camera| (camera.image.name, camera.label.map(|label| label.name))).collect()
    }

    fn expected(pairs: &[(&str, Option<&str>)]) -> Vec<(String, Option<String>)> {
        pairs.iter().map(|(image, label)| ((*image).to_owned(), label.map(str::to_owned))).collect()
    }

    #[test]
    fn labels_go_to_their_cameras_and_other_types_are_left_out() {
        let found = pairs(&[
            ("/camera/left/label", RAW),
            ("/camera/left/image_raw/compressed", COMPRESSED),
            ("/camera/left_wide/image_raw", RAW),
            ("/camera/right/image_raw", RAW),
            ("/camera/right/label/compressed", COMPRESSED),
            ("/camera/right/camera_info", "sensor_msgs/msg/CameraInfo"),
        ]);
        assert_eq!(
            found,
            expected(&[
                ("/camera/left/image_raw/compressed", Some("/camera/left/label")),
                ("/camera/left_wide/image_raw", None),
                ("/camera/right/image_raw", Some("/camera/right/label/compressed")),
            ])
        );
    }

    #[test]
    fn raw_is_taken_where_a_camera_is_recorded_twice() {
        let found = pairs(&[
            ("/front/image_raw/compressed", COMPRESSED),
            ("/front/image_raw", RAW),
            ("/front/label/compressed", COMPRESSED),
            ("/front/label", RAW),
        ]);
        assert_eq!(found, expected(&[("/front/image_raw", Some("/front/label"))]));
    }

    #[test]
    fn a_label_that_could_be_of_two_cameras_is_of_none() {
        let found = pairs(&[
            ("/cam/label", RAW),
            ("/cam/a/image", RAW),
            ("/cam/b/image", RAW),
            ("/cam/b/label", RAW),
        ]);
        assert_eq!(found, expected(&[("/cam/a/image", None), ("/cam/b/image", Some("/cam/b/label"))]));
    }

    #[test]
    fn the_closest_label_wins_and_names_at_the_root_work() {
        let found = pairs(&[
            ("/cam/label", RAW),
            ("/cam/a/label_fine", RAW),
            ("/cam/a/label", RAW),
            ("/cam/a/image", RAW),
        ]);
        assert_eq!(found, expected(&[("/cam/a/image", Some("/cam/a/label_fine"))]));
        assert_eq!(pairs(&[("/image", RAW), ("/labels", RAW)]), expected(&[("/image", Some("/labels"))]));
    }
}
