//! Names and colours of the label values, latched: who subscribes late still gets them.

use r2r::std_msgs::msg::String as StringMsg;
use r2r::{Node, Publisher, QosProfile};

use crate::bag::label_info::label_info;
#[cfg(has_vision_msgs)]
use crate::bag::label_info::named;
use crate::types::ClassInfo;

/// Latched publishers of one camera.
pub(super) struct ClassInfoOutputs {
    json: Publisher<StringMsg>,
    #[cfg(has_vision_msgs)]
    label_info: Publisher<r2r::vision_msgs::msg::LabelInfo>,
}

impl ClassInfoOutputs {
    /// `~/output/<camera>/label_info_json`, and `label_info` where vision_msgs was there at build time.
    pub(super) fn create(node: &mut Node, camera: &str) -> r2r::Result<Self> {
        let latched = || QosProfile::default().keep_last(1).reliable().transient_local();
        Ok(Self {
            json: node.create_publisher(&format!("~/output/{camera}/label_info_json"), latched())?,
            #[cfg(has_vision_msgs)]
            label_info: node.create_publisher(&format!("~/output/{camera}/label_info"), latched())?,
        })
    }

    pub(super) fn publish(&self, classes: &[ClassInfo]) -> r2r::Result<()> {
        #[cfg(has_vision_msgs)]
        self.label_info.publish(&vision_info(classes))?;
        self.json.publish(&StringMsg { data: label_info(classes) })
    }

    pub(super) fn destroy(self, node: &mut Node) {
        node.destroy_publisher(self.json);
        #[cfg(has_vision_msgs)]
        node.destroy_publisher(self.label_info);
    }
}

#[cfg(has_vision_msgs)]
fn vision_info(classes: &[ClassInfo]) -> r2r::vision_msgs::msg::LabelInfo {
    let class_map = named(classes).map(|class| r2r::vision_msgs::msg::VisionClass {
        class_id: u16::from(class.label),
        class_name: class.name.clone(),
    });
    r2r::vision_msgs::msg::LabelInfo { class_map: class_map.collect(), threshold: 0.0, ..Default::default() }
}
