//! Names and colours of the label values, as the text of one latched message.

use crate::types::{ClassInfo, UNLABELLED};

/// JSON: `{"unlabelled": 255, "classes": [{"id", "name", "colour": [r, g, b]}, ..]}`, each label value once.
pub fn label_info(classes: &[ClassInfo]) -> String {
    let classes: Vec<_> = named(classes)
        .map(|class| serde_json::json!({ "id": class.label, "name": class.name, "colour": class.colour }))
        .collect();
    serde_json::json!({ "unlabelled": UNLABELLED, "classes": classes }).to_string()
}

/// One class per label value: the first, where several channels share a label.
pub fn named(classes: &[ClassInfo]) -> impl Iterator<Item = &ClassInfo> {
    let mut seen = std::collections::BTreeSet::new();
    classes.iter().filter(move |class| seen.insert(class.label))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shared_labels_are_named_once() {
        let class = |name: &str, label| ClassInfo { name: name.into(), colour: [1, 2, 3], label };
        let info = label_info(&[class("car", 0), class("truck", 0), class("sky", 4)]);
        assert!(info.contains("car") && info.contains("sky") && !info.contains("truck"), "{info}");
    }
}
