-- Reaps expired leases and promotes delayed jobs, by the server's own clock. ARGV: limit, for
-- how many ms leases are spared after Redis was away, for how many ms more because the caller could
-- not reach it, lease ms, for how many ms a worker counts as alive, the number of due cleanups to claim,
-- and for how many ms they are held.
-- Returns the number of jobs that became ready, when the next one is due (-1: none), the server's
-- time, when the next cleanup is due (-1: none), and the claimed ones.
local now, lease, alive_ms = clock(), tonumber(ARGV[5]), tonumber(ARGV[6])

-- If the last sweep or the newest event lies ahead, the clock was set back. Times that lie ahead were taken from
-- the former clock then, and their owners would wait for that much longer.
local seen = redis.call('HMGET', clock_seen, 'now', 'event', 'classes')
local newest = redis.call('XREVRANGE', events, '+', '-', 'COUNT', 1)[1]
local event_ms = newest and string.match(newest[1], '^%d+')
local event_ahead = event_ms and event_ms - now > 5000
local sweep_ahead = seen[1] and seen[1] - now > 5000
local is_new = sweep_ahead or event_ahead and seen[2] ~= event_ms
redis.call('HSET', clock_seen, 'now', now, 'event', event_ahead and event_ms or '')
if is_new then
  local step = sweep_ahead and seen[1] - now or 0
  -- The events of a step that was followed before say nothing about this one.
  if event_ahead and seen[2] ~= event_ms then step = math.max(step, event_ms - now) end
  for _, set in ipairs({ scheduled, uploading, outboxes['1'], outboxes['2'], cleanup, retired }) do
    local ahead = redis.call('ZRANGE', set, now, '+inf', 'BYSCORE', 'WITHSCORES')
    for i = 1, #ahead, 2 do
      redis.call('ZADD', set, math.max(now, ahead[i + 1] - step), ahead[i])
    end
  end
end
-- Holders that live renew leases by the former clock again, and each sweep comes back to them.
local too_far = now + 2 * math.max(lease, 30000)
for _, member in ipairs(redis.call('ZRANGE', leases, too_far, '+inf', 'BYSCORE', 'LIMIT', 0, 1000)) do
  redis.call('ZADD', leases, now + lease, member)
end
if event_ahead or sweep_ahead then
  local until_ms = '(' .. RETIRED_OFFSET
  for _, worker in ipairs(redis.call('ZRANGE', alive, now + 2 * alive_ms, until_ms, 'BYSCORE')) do
    redis.call('ZADD', alive, now + alive_ms, worker)
  end
end

local ready, due = sweep(now, tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4]))
if seen[3] then
  -- A version that knows no classes may have put tasks into the wrong queue, where perhaps no worker claims any.
  local first = redis.call('ZRANGE', pending, 0, 15, 'WITHSCORES')
  for i = 1, #first, 2 do
    local s = redis.call('HMGET', status(first[i]), 'class', 'state')
    if (s[1] or '') ~= '' and s[2] == 'queued' then
      enqueue(s[1], first[i + 1], first[i])
      redis.call('ZREM', pending, first[i])
      ring(s[1], first[i])
    end
  end
  -- Anybody can name a class, so those of which no job is ready are forgotten.
  for _, class in ipairs(redis.call('SRANDMEMBER', classes, 100)) do
    if redis.call('EXISTS', (lane(class))) == 0 then redis.call('SREM', classes, class) end
  end
end
local limit = tonumber(ARGV[7])
local list = limit > 0 and redis.call('ZRANGE', cleanup, 0, limit - 1, 'WITHSCORES') or {}
local answer = { ready, due, now, limit > 0 and #list == 2 * limit and now or -1 }
for i = 1, #list, 2 do
  local at = tonumber(list[i + 1])
  if at > now then
    answer[4] = at
    break
  end
  redis.call('ZADD', cleanup, now + tonumber(ARGV[8]), list[i])
  answer[#answer + 1] = list[i]
end
return answer
