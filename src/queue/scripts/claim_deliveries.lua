-- Claims due webhook deliveries. ARGV: the outbox, now, until when they are held, the maximum
-- number.
-- Returns when the next one is due (-1: none), then the name and the previous attempts of each.
local outbox, now, held_until, limit = P .. ARGV[2], tonumber(ARGV[3]), ARGV[4], tonumber(ARGV[5])
local list = redis.call('ZRANGE', outbox, 0, limit - 1, 'WITHSCORES')
local answer = { #list == 2 * limit and now or -1 }
for i = 1, #list, 2 do
  local due = tonumber(list[i + 1])
  if due > now then
    answer[1] = due
    break
  end
  redis.call('ZADD', outbox, held_until, list[i])
  answer[#answer + 1] = list[i]
  answer[#answer + 1] = redis.call('HGET', tries, list[i]) or ''
end
return answer
