//! The numbers of `resources`, such as `500m` CPUs and `4Gi` of memory.

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

/// Suffixes and their factors. See <https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/quantity/>.
const SUFFIXES: [(&str, f64); 15] = [
    ("Ki", 1024.0),
    ("Mi", 1_048_576.0),
    ("Gi", 1_073_741_824.0),
    ("Ti", 1_099_511_627_776.0),
    ("Pi", 1_125_899_906_842_624.0),
    ("Ei", 1_152_921_504_606_846_976.0),
    ("n", 1e-9),
    ("u", 1e-6),
    ("m", 1e-3),
    ("k", 1e3),
    ("M", 1e6),
    ("G", 1e9),
    ("T", 1e12),
    ("P", 1e15),
    ("E", 1e18),
];

/// The number of a quantity; `None` if it is none, or negative.
pub(super) fn number(quantity: &Quantity) -> Option<f64> {
    let text = quantity.0.as_str();
    let split = SUFFIXES.iter().find_map(|(suffix, factor)| Some((text.strip_suffix(suffix)?, *factor)));
    let (digits, factor) = split.unwrap_or((text, 1.0));
    // Rust's parser also knows words such as `inf`.
    let is_number = digits.chars().all(|c| c.is_ascii_digit() || matches!(c, '.' | '+' | '-' | 'e' | 'E'));
    let number = digits.parse::<f64>().ok().filter(|_| is_number)? * factor;
    (number.is_finite() && number >= 0.0).then_some(number)
}

/// A number rounded up to a whole one, at least 1.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is clamped")]
pub(super) fn whole(number: f64) -> u32 {
    number.ceil().clamp(1.0, f64::from(u32::MAX)) as u32
}

/// A number of bytes without its fraction.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "it is not negative, and `as` saturates"
)]
pub(super) fn bytes(number: f64) -> u64 {
    number as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_read_with_their_suffixes() {
        for (text, value) in [
            ("2", 2.0),
            ("500m", 0.5),
            ("1.5", 1.5),
            ("4Gi", 4_294_967_296.0),
            ("512M", 512e6),
            ("1e3", 1000.0),
            ("2E", 2e18),
            ("0", 0.0),
        ] {
            assert_eq!(number(&Quantity(text.to_owned())), Some(value), "{text}");
        }
        for text in ["", "m", "Gi", "-1", "inf", "nan", "4 Gi", "4gi", "1e999"] {
            assert_eq!(number(&Quantity(text.to_owned())), None, "{text}");
        }
    }

    #[test]
    fn a_part_of_a_cpu_counts_as_one() {
        assert_eq!([0.0, 0.5, 1.0, 1.1, 1e30].map(whole), [1, 1, 1, 2, u32::MAX]);
    }
}
