CREATE VIEW performance AS
SELECT
    kind, source, period, hour, day, brand_id, partner_id, slot_id, device_type, creative_type, placement_score,
    impressions, clicks, conversions, cost_micros, revenue_micros, pending_revenue_micros
FROM performance_hourly AS p
WHERE NOT EXISTS (
    SELECT 1 FROM performance_hourly AS better
    WHERE better.brand_id = p.brand_id AND better.day = p.day AND better.partner_id = p.partner_id
      AND better.slot_id = p.slot_id AND better.device_type = p.device_type
      AND better.creative_type = p.creative_type AND better.precedence < p.precedence
)
