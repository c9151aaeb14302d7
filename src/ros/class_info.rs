//! Names and colours of the label values, latched: who subscribes late still gets them.

use r2r::std_msgs::msg::String as StringMsg;
use r2r::{Node, Publisher, QosProfile};

use crate::bag::label_info::label_info;
use crate::types::ClassInfo;

/// Latched publisher of one camera: `~/output/<camera>/label_info_json`.
pub(super) struct ClassInfoOutput(Publisher<StringMsg>);

impl ClassInfoOutput {
    pub(super) fn create(node: &mut Node, camera: &str) -> r2r::Result<Self> {
        let latched = QosProfile::default().keep_last(1).reliable().transient_local();
        Ok(Self(node.create_publisher(&format!("~/output/{camera}/label_info_json"), latched)?))
    }

    pub(super) fn publish(&self, classes: &[ClassInfo]) -> r2r::Result<()> {
        self.0.publish(&StringMsg { data: label_info(classes) })
    }

    pub(super) fn destroy(self, node: &mut Node) {
        node.destroy_publisher(self.0);
    }
}
