CREATE VIEW performance AS
SELECT
    kind, source, period, hour, day, brand_id, partner_id, slot_id, device_type, creative_type, placement_score,
    impressions, clicks, conversions, cost_micros, revenue_micros, pending_revenue_micros
FROM (
    SELECT
        kind, source, period, hour, day, brand_id, partner_id, slot_id, device_type, creative_type, placement_score,
        impressions, clicks, conversions, cost_micros, revenue_micros, pending_revenue_micros, precedence,
        MIN(precedence) OVER (
            PARTITION BY brand_id, day, partner_id, slot_id, device_type, creative_type
        ) AS least_precedence
    FROM performance_hourly
) AS ranked
WHERE precedence = least_precedence
