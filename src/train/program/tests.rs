use super::execute::{ShapeCache, ShapeValues};

#[test]
fn the_shape_cache_drops_the_least_recently_used() {
    let mut cache = ShapeCache::new(2);
    for key in [1, 2] {
        cache.insert(vec![key], std::rc::Rc::new(ShapeValues::default()));
    }
    assert!(cache.get(&[1]).is_some());
    cache.insert(vec![3], std::rc::Rc::new(ShapeValues::default()));
    assert_eq!(cache.len(), 2);
    assert!(cache.get(&[2]).is_none(), "it was used longest ago");
    assert!(cache.get(&[1]).is_some() && cache.get(&[3]).is_some());
}
