use super::execute::{ShapeCache, ShapeValues};

#[test]
fn the_shape_cache_drops_the_least_recently_used() {
    let mut cache = ShapeCache::new(2);
    for key in [1, 2] {
        cache.insert(vec![key], ShapeValues::default());
    }
    let used = cache.take(&[1]).unwrap();
    cache.insert(vec![1], used);
    cache.insert(vec![3], ShapeValues::default());
    assert_eq!(cache.len(), 2);
    assert!(cache.take(&[2]).is_none(), "it was used longest ago");
    assert!(cache.take(&[1]).is_some() && cache.take(&[3]).is_some());
}
