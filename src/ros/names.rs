//! Full topic names, for diagnostics: r2r does not tell what a subscription's name became after remapping.

/// Remapping rules of the command line (`-r from:=to`, within `--ros-args`), in their order.
pub(super) fn remappings(arguments: impl Iterator<Item = String>) -> Vec<(String, String)> {
    let mut rules = Vec::new();
    let mut within = false;
    let mut arguments = arguments.peekable();
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--ros-args" => within = true,
            "--" => within = false,
            "-r" | "--remap" if within => {
                if let Some((from, to)) = arguments.next().as_deref().and_then(|rule| rule.split_once(":=")) {
                    rules.push((from.to_owned(), to.to_owned()));
                }
            }
            _ => {}
        }
    }
    rules
}

/// Full name of the private topic `~/{topic}` of the node `node` (`/namespace/name`), by the first rule that fits.
pub(super) fn resolve(topic: &str, node: &str, rules: &[(String, String)]) -> String {
    let full = format!("{node}/{topic}");
    let (namespace, name) = node.rsplit_once('/').unwrap_or(("", node));
    let fits = |from: &str| {
        let from = match from.split_once(':') {
            Some((only, from)) if only == name => from,
            Some(_) => return false,
            None => from,
        };
        from == full || from.strip_prefix("~/") == Some(topic)
    };
    match rules.iter().find(|(from, _)| fits(from)) {
        None => full,
        Some((_, to)) => match (to.strip_prefix("~/"), to.starts_with('/')) {
            (Some(private), _) => format!("{node}/{private}"),
            (None, true) => to.clone(),
            (None, false) => format!("{namespace}/{to}"),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_first_rule_that_fits() {
        let line = "node -r not:=this --ros-args -p a:=b -r other:~/input/front/image:=/no \
                    -r ~/input/front/image:=/camera/front/image_raw --remap node:~/input/left/image:=left/image \
                    -r /ns/node/input/back/image:=~/back --";
        let rules = remappings(line.split_whitespace().map(str::to_owned));
        assert_eq!(rules.len(), 4);
        let of = |camera: &str| resolve(&format!("input/{camera}/image"), "/ns/node", &rules);
        assert_eq!(of("front"), "/camera/front/image_raw");
        assert_eq!(of("left"), "/ns/left/image");
        assert_eq!(of("back"), "/ns/node/back");
        assert_eq!(of("right"), "/ns/node/input/right/image");
        assert_eq!(resolve("x", "/node", &[("~/x".to_owned(), "y".to_owned())]), "/y");
    }
}
