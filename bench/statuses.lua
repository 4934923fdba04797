-- LOAD (a script such as score.lua), and at the end a line with how many answers were 2xx, 503 and anything else.
dofile(os.getenv("LOAD"))
won, shed, failed = 0, 0, 0  -- globals of the thread, for `done`
local threads = {}
function setup(thread)
  table.insert(threads, thread)
end
function response(status)
  if status >= 200 and status < 300 then
    won = won + 1
  elseif status == 503 then
    shed = shed + 1
  else
    failed = failed + 1
  end
end
function done()
  local sums = {won = 0, shed = 0, failed = 0}
  for _, thread in ipairs(threads) do
    for name in pairs(sums) do
      sums[name] = sums[name] + thread:get(name)
    end
  end
  print(string.format("Statuses: 2xx %d, 503 %d, other %d", sums.won, sums.shed, sums.failed))
end
