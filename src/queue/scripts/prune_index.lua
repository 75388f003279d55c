-- Removes jobs whose hash has expired from the listings. ARGV: ids. Other jobs stay, so that the
-- index prevents a second submit.
-- Returns the number of removed jobs.
local removed = 0
for i = 2, #ARGV do
  local id = ARGV[i]
  if redis.call('EXISTS', status(id)) == 0 then
    redis.call('ZREM', index, id)
    redis.call('ZREM', dead, id)
    redis.call('ZREM', cancelled, id)
    removed = removed + 1
  end
end
return removed
