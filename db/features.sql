CREATE VIEW feature_store AS
SELECT
    day, brand_id, partner_id, slot_id, device_type, creative_type,
    SUM(impressions) AS impressions,
    SUM(clicks) AS clicks,
    SUM(conversions) AS conversions,
    SUM(cost_micros) AS cost_micros,
    SUM(revenue_micros) AS revenue_micros,
    SUM(pending_revenue_micros) AS pending_revenue_micros,
    CASE WHEN SUM(cost_micros) > 0 THEN
        SUM(CASE WHEN cost_micros IS NOT NULL THEN revenue_micros ELSE 0 END) / (SUM(cost_micros) + 0e0)
    END AS roas
FROM performance
GROUP BY day, brand_id, partner_id, slot_id, device_type, creative_type
