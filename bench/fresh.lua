-- As score.lua, but no (tuple, placement_score) is ever met twice: wrk -t1 -c16 -d10s -s fresh.lua --latency URL
-- placement_score is 0.UUUUUUUUUNNN: U the request's own number, its last digit first, so that a rounded score is
-- hardly ever met twice either; N the bid's place in its request. 12 digits, which a double keeps apart.
local n, sent = tonumber(os.getenv("NB") or "50"), 0
local placements = {"abc", "def", "ghi", "jkl", "mno"}
local banners = {"160x600", "240x400", "300x250", "468x60", "580x400", "670x90", "728x90", "800x250"}
math.randomseed(7)
local function bids()
  local t = {}
  for i = 1, n do
    local p, b = placements[math.random(#placements)], banners[math.random(#banners)]
    local brand, _, price = math.random(3), math.random(0, 3), math.random(100000, 3000000)
    t[i] = string.format('{"bid_id":"b-%d","brand_id":"camp-%d","partner_id":"partner-%s","slot_id":"%s:%s","device_type":"unknown",'
      .. '"creative_type":"%s","placement_score":0.@%03d,"pricing_model":"cpm","price_micros":%d}', i, brand, p, p, b, b, i - 1, price)
  end
  return table.concat(t, ",")
end
local bodies, head = {}, {["Content-Type"] = "application/json", ["Authorization"] = "Bearer " .. (os.getenv("TOKEN") or "")}
for i = 1, 64 do bodies[i] = bids() end
local run = os.time()
function request()
  sent = sent + 1
  -- 10,000 numbers a second of the run's start: no other run has them, unless it is faster than that.
  local own = string.reverse(string.format("%09d", (run % 100000 * 10000 + sent) % 1000000000))
  local body = string.gsub(bodies[sent % 64 + 1], "@", own)
  return wrk.format("POST", nil, head, '{"request_id":"w-' .. run .. '-' .. sent .. '","bids":[' .. body .. ']}')
end
