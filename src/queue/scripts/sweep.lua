-- Reaps expired leases and promotes delayed jobs, by the server's own clock. ARGV: limit, for
-- how many ms leases are spared after Redis was away, for how many ms more because the caller could
-- not reach it, lease ms, the number of due cleanups to claim, and for how many ms they are held.
-- Returns the number of jobs that became ready, when the next one is due (-1: none), the server's
-- time, when the next cleanup is due (-1: none), and the claimed ones.
local now = clock()

-- Until the clock has caught up with the newest event, it was set back by at least their difference. Times
-- that lie ahead were taken from the former clock, and their owners would wait for that much longer.
local newest = redis.call('XREVRANGE', events, '+', '-', 'COUNT', 1)[1]
local former = newest and string.match(newest[1], '^%d+')
local step = former and former - now or 0
if step > 5000 then
  local lease = tonumber(ARGV[5])
  -- Holders that live renew them by the former clock again, and the next sweep comes back to them.
  for _, member in ipairs(redis.call('ZRANGE', leases, now + 2 * lease, '+inf', 'BYSCORE', 'LIMIT', 0, 1000)) do
    redis.call('ZADD', leases, now + lease, member)
  end
  -- Only once for each step: the time of the newest event stands still meanwhile.
  if redis.call('SET', P .. 'jobs:clock', former, 'PX', step + 60000, 'GET') ~= former then
    for _, set in ipairs({ scheduled, uploading, outboxes['1'], outboxes['2'], cleanup, alive, retired }) do
      local ahead = redis.call('ZRANGE', set, now, '(' .. RETIRED_OFFSET, 'BYSCORE', 'WITHSCORES')
      for i = 1, #ahead, 2 do
        redis.call('ZADD', set, math.max(now, ahead[i + 1] - step), ahead[i])
      end
    end
  end
end

local ready, due = sweep(now, tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4]))
local limit = tonumber(ARGV[6])
local list = limit > 0 and redis.call('ZRANGE', cleanup, 0, limit - 1, 'WITHSCORES') or {}
local answer = { ready, due, now, #list == 2 * limit and now or -1 }
for i = 1, #list, 2 do
  local at = tonumber(list[i + 1])
  if at > now then
    answer[4] = at
    break
  end
  redis.call('ZADD', cleanup, now + tonumber(ARGV[7]), list[i])
  answer[#answer + 1] = list[i]
end
return answer
